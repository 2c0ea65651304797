# SPDX-License-Identifier: GPL-2.0-or-later
"""Structured logging: an event in plain words plus key=value pairs, as text or JSON, on a given stream."""

from __future__ import annotations

import logging
from typing import TextIO, cast

import structlog

from aa_cluster.config import Log

Logger = structlog.typing.FilteringBoundLogger


def configure(settings: Log, stream: TextIO) -> None:
    """Once per process, before the first event. Text has no colours unless ``stream`` is a terminal."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=0)
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )


def get(component: str) -> Logger:
    """The logger of one component; every line it writes names it."""
    return cast(Logger, structlog.get_logger(component=component))
