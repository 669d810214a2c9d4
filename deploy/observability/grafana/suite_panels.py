"""The panels of the dashboards of the whole suite: overview, services, objectives."""

from __future__ import annotations

from builder import Panel, high_is_good, low_is_good, stat
from queries import quantile, quantiles, rate, top

#: The routes that the latency of the API is measured on; rules/slo.yml has the same.
_FAST_ROUTES = 'http_route!~"/health.*|/readyz|.*(:probeMedia|/info|:test|:download|:archive)"'
_BURN_WINDOWS = ("5 m", "1 h", "6 h", "3 d")

OVERVIEW = (
    stat("Services that answer", "short", 'sum(up{job=~"reelhaul-.+"})'),
    stat(
        "Alerts that fire",
        "short",
        'count(ALERTS{alertstate="firing",severity!="none"}) or vector(0)',
        *low_is_good(1, 3),
    ),
    stat("Live fetchers", "short", 'max(reelhaul_workers{state="live"})', *high_is_good(1, 1)),
    stat("Jobs that have not ended", "short", "sum(max by (state) (reelhaul_jobs))"),
    stat("Oldest waiting job", "s", "max(reelhaul_queue_oldest_seconds)", *low_is_good(300, 1800)),
    stat(
        "Success of jobs, 1 h",
        "percentunit",
        'sum(increase(reelhaul_jobs_ended_total{state="SUCCEEDED"}[1h]))'
        ' / sum(increase(reelhaul_jobs_ended_total{state=~"SUCCEEDED|FAILED"}[1h]))',
        *high_is_good(0.5, 0.8),
        description="Failures for any reason, those of sites included.",
    ),
    Panel(
        "Jobs created and ended",
        "ops",
        {
            "created": "sum(rate(reelhaul_jobs_created_total[$__rate_interval]))",
            "{{state}}": rate("reelhaul_jobs_ended_total", "state"),
        },
    ),
    Panel("Jobs by state", "short", {"{{state}}": "max by (state) (reelhaul_jobs)"}, stacked=True),
    Panel(
        "Slots of fetchers", "short", {"{{state}}": "max by (state) (reelhaul_worker_slots)"}, stacked=True
    ),
    Panel(
        "HTTP requests by status",
        "reqps",
        {
            "{{http_response_status_code}}": rate("http_server_requests_total", "http_response_status_code"),
        },
        stacked=True,
    ),
    Panel("HTTP latency", "s", quantiles("http_server_request_duration_seconds", f"{{{_FAST_ROUTES}}}")),
    Panel(
        "Received from sites",
        "Bps",
        {"{{site}}": top(rate("reelhaul_fetch_bytes_total", "site"))},
        stacked=True,
    ),
    Panel(
        "Free disk",
        "percentunit",
        {
            "{{job}} {{folder}}": 'min by (job, folder) (reelhaul_disk_bytes{state="free"}'
            ' / ignoring (state) reelhaul_disk_bytes{state="total"})',
        },
    ),
    Panel(
        "CPU",
        "percentunit",
        {"{{job}}": 'sum by (job) (rate(process_cpu_seconds_total{job=~"reelhaul-.+"}[$__rate_interval]))'},
    ),
    Panel(
        "Memory",
        "bytes",
        {"{{job}}": 'sum by (job) (process_resident_memory_bytes{job=~"reelhaul-.+"})'},
        stacked=True,
    ),
)

SERVICES = (
    Panel(
        "gRPC calls",
        "reqps",
        {"{{job}} {{grpc_service}}": rate("grpc_server_handled_total", "job, grpc_service")},
        stacked=True,
    ),
    Panel(
        "gRPC calls that fail",
        "reqps",
        {
            "{{job}} {{grpc_method}} {{grpc_code}}": rate(
                "grpc_server_handled_total", "job, grpc_method, grpc_code", '{grpc_code!="OK"}'
            ),
        },
        stacked=True,
    ),
    Panel(
        "gRPC latency, 99th percentile",
        "s",
        {
            "{{job}} {{grpc_method}}": top(
                quantile(0.99, "grpc_server_handling_seconds", "job, grpc_method")
            ),
        },
    ),
    Panel(
        "gRPC calls in progress",
        "short",
        {
            "{{job}} {{grpc_service}}": "sum by (job, grpc_service) (grpc_server_started_total)"
            " - sum by (job, grpc_service) (grpc_server_handled_total)",
        },
    ),
    Panel(
        "Open streams",
        "short",
        {"{{job}} {{grpc_method}}": "sum by (job, grpc_method) (grpc_server_streams)"},
        stacked=True,
    ),
    Panel(
        "Calls of other services that fail",
        "reqps",
        {
            "{{job}} {{grpc_service}} {{grpc_code}}": rate(
                "grpc_client_handled_total", "job, grpc_service, grpc_code", '{grpc_code!="OK"}'
            ),
        },
        stacked=True,
    ),
    Panel(
        "Errors by reason",
        "ops",
        {"{{job}} {{reason}}": rate("reelhaul_errors_total", "job, reason")},
        stacked=True,
    ),
    Panel(
        "Warnings and errors in the log",
        "ops",
        {"{{job}} {{level}}": rate("reelhaul_log_messages_total", "job, level")},
        stacked=True,
    ),
    Panel("Dropped spans", "ops", {"{{job}}": rate("reelhaul_spans_dropped_total", "job")}),
    Panel("Ready", "short", {"{{job}} {{instance}}": "reelhaul_ready"}),
    Panel(
        "CPU",
        "percentunit",
        {"{{job}} {{instance}}": 'rate(process_cpu_seconds_total{job=~"reelhaul-.+"}[$__rate_interval])'},
    ),
    Panel("Memory", "bytes", {"{{job}} {{instance}}": 'process_resident_memory_bytes{job=~"reelhaul-.+"}'}),
    Panel(
        "Open files",
        "percentunit",
        {"{{job}} {{instance}}": 'process_open_fds{job=~"reelhaul-.+"} / process_max_fds'},
    ),
    Panel("Lag of the event loop", "s", {"{{job}} {{instance}}": "reelhaul_event_loop_lag_seconds"}),
    Panel(
        "Database connections",
        "short",
        {"{{job}} {{state}}": "sum by (job, state) (reelhaul_database_connections)"},
    ),
    Panel(
        "Wait for a database connection, 95th percentile",
        "s",
        {"{{job}}": quantile(0.95, "reelhaul_database_wait_seconds", "job")},
    ),
    Panel(
        "Broker",
        "short",
        {
            "{{job}} {{instance}} connected": "reelhaul_broker_connected",
            "{{job}} {{instance}} lost": "increase(reelhaul_broker_reconnects_total[$__rate_interval])",
        },
    ),
    Panel(
        "Free disk",
        "bytes",
        {"{{instance}} {{folder}}": 'sum by (instance, folder) (reelhaul_disk_bytes{state="free"})'},
    ),
    Panel(
        "Time until certificates expire",
        "s",
        {
            "{{job}} {{file}}": "min by (job, file) (reelhaul_certificate_expiry_timestamp_seconds) - time()",
        },
    ),
    Panel(
        "Metrics that cannot be read",
        "ops",
        {"{{job}} {{collector}}": rate("reelhaul_collector_failures_total", "job, collector")},
    ),
    Panel("Garbage collections of Python", "ops", {"{{job}}": rate("python_gc_collections_total", "job")}),
    Panel(
        "Versions",
        "short",
        {"{{service}} {{version}}": "sum by (service, version) (reelhaul_build_info)"},
        stacked=True,
    ),
)


def _objective(name: str, record: str, budget: float, objective: str) -> tuple[Panel, Panel]:
    """Return the panels of one service level objective."""
    return (
        Panel(
            name,
            "percentunit",
            {
                "5 m": f"reelhaul:{record}:ratio_rate5m",
                "1 h": f"reelhaul:{record}:ratio_rate1h",
                "1 d": f"reelhaul:{record}:ratio_rate1d",
            },
            f"Share of failures. Objective over 30 days: {objective}.",
            width=12,
        ),
        Panel(
            "Burn rate: " + name.lower(),
            "none",
            {
                window: f"reelhaul:{record}:ratio_rate{window.replace(' ', '')} / {budget}"
                for window in _BURN_WINDOWS
            },
            "1 uses the error budget up in 30 days. Alerts come from 1 on over 3 days, 14.4 over an hour.",
            width=12,
        ),
    )


SLOS = (
    *_objective("HTTP requests that fail", "api_errors", 0.001, "at most 0.1 %"),
    *_objective("HTTP requests slower than 0.5 s", "api_slow", 0.01, "at most 1 %"),
    *_objective("Jobs that fail for reasons that are ours", "job_failures", 0.01, "at most 1 %"),
    *_objective("Jobs that wait longer than 30 s", "job_start_slow", 0.05, "at most 5 %"),
)
