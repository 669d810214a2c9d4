"""Celery application with a no-op task that is acknowledged late: ``celery -A bench.jobs.celery_app``."""

from __future__ import annotations

import os
from functools import cache

from celery import Celery

from bench.jobs.completions import CompletionReporter

app = Celery("bench", broker=os.environ.get("BENCH_REDIS", ""))
app.conf.update(
    # The guarantee closest to ours: a task whose worker dies is run again.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # Celery is faster without results.
    task_ignore_result=True,
    worker_prefetch_multiplier=10,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@cache
def _reporter() -> CompletionReporter:
    return CompletionReporter()


@app.task(name="bench.download")
def download(url: str, options: dict[str, object]) -> None:
    """Report a completion."""
    _reporter().report()
