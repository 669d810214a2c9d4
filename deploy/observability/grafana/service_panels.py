"""The panels of the dashboards of single services."""

from __future__ import annotations

from builder import Panel, high_is_good, low_is_good, stat
from queries import quantile, quantiles, rate, top

JOBS = (
    Panel(
        "Created by source",
        "ops",
        {"{{source}}": rate("reelhaul_jobs_created_total", "source")},
        stacked=True,
    ),
    Panel("Ended by state", "ops", {"{{state}}": rate("reelhaul_jobs_ended_total", "state")}, stacked=True),
    Panel(
        "Failed by reason",
        "ops",
        {
            "{{reason}}": rate("reelhaul_jobs_ended_total", "reason", '{state="FAILED"}'),
        },
        stacked=True,
    ),
    Panel(
        "Failed by site",
        "ops",
        {
            "{{site}}": top(rate("reelhaul_jobs_ended_total", "site", '{state="FAILED"}')),
        },
        stacked=True,
    ),
    Panel("Jobs by state", "short", {"{{state}}": "max by (state) (reelhaul_jobs)"}, stacked=True),
    Panel(
        "What queued jobs wait for",
        "short",
        {"{{wait_reason}}": "max by (wait_reason) (reelhaul_jobs_waiting)"},
        stacked=True,
    ),
    Panel("Queue depth", "short", {"{{priority}}": "max by (priority) (reelhaul_queue_depth)"}, stacked=True),
    Panel("Oldest waiting job", "s", {"{{priority}}": "max by (priority) (reelhaul_queue_oldest_seconds)"}),
    Panel(
        "Time to start, 95th percentile",
        "s",
        {"{{priority}}": quantile(0.95, "reelhaul_job_start_seconds", "priority")},
    ),
    Panel(
        "Duration of jobs that succeed",
        "s",
        quantiles("reelhaul_job_duration_seconds", '{state="SUCCEEDED"}'),
    ),
    Panel(
        "Attempts by outcome",
        "ops",
        {"{{outcome}}": rate("reelhaul_attempts_ended_total", "outcome")},
        stacked=True,
    ),
    Panel(
        "Retries by reason",
        "ops",
        {"{{reason}}": rate("reelhaul_job_retries_total", "reason")},
        stacked=True,
    ),
    Panel(
        "Leases that expired or were refused",
        "ops",
        {
            "expired": "sum(rate(reelhaul_leases_expired_total[$__rate_interval]))",
            "{{operation}} {{reason}}": rate("reelhaul_leases_refused_total", "operation, reason"),
        },
    ),
    Panel(
        "Work items in the broker",
        "short",
        {"{{pool}} {{priority}}": "max by (pool, priority) (reelhaul_work_items)"},
        stacked=True,
    ),
    Panel("Published work items", "ops", {"{{kind}}": rate("reelhaul_dispatched_total", "kind")}),
    Panel("Fetchers", "short", {"{{state}}": "max by (state) (reelhaul_workers)"}),
    Panel("Parked sites", "short", {"sites": "max(reelhaul_sites_parked)"}),
    Panel(
        "Time since the last round of each loop",
        "s",
        {
            "{{loop}}": "time() - max by (loop) (reelhaul_loop_last_success_timestamp_seconds)",
        },
    ),
    Panel("Replicas that lead a loop", "short", {"{{loop}}": "sum by (loop) (reelhaul_loop_leader)"}),
    Panel(
        "Stored by site",
        "Bps",
        {"{{site}}": top(rate("reelhaul_job_stored_bytes_total", "site"))},
        stacked=True,
    ),
    Panel("Watchers", "short", {"{{kind}}": "sum by (kind) (reelhaul_watchers)"}, stacked=True),
    Panel(
        "Webhook deliveries",
        "ops",
        {"{{outcome}}": rate("reelhaul_webhook_deliveries_total", "outcome")},
        stacked=True,
    ),
    Panel("Webhook latency", "s", quantiles("reelhaul_webhook_delivery_seconds")),
    Panel("Webhook backlog", "short", {"events": "max(reelhaul_webhook_backlog)"}),
    Panel(
        "Runs of schedules",
        "ops",
        {"{{outcome}}": rate("reelhaul_schedule_runs_total", "outcome")},
        stacked=True,
    ),
    Panel(
        "Jobs refused by quotas",
        "ops",
        {"{{quota}}": rate("reelhaul_quota_refusals_total", "quota")},
        stacked=True,
    ),
)

FETCHER = (
    stat(
        "Oldest engine",
        "s",
        "max(time() - reelhaul_engine_release_timestamp_seconds)",
        *low_is_good(30 * 86400, 60 * 86400),
        description="Time since the release of yt-dlp.",
    ),
    stat(
        "Next expiry of cookies",
        "s",
        "min(reelhaul_cookies_expiry_timestamp_seconds) - time()",
        *high_is_good(86400, 3 * 86400),
    ),
    stat("Busy slots", "short", 'sum(reelhaul_fetcher_slots{state="busy"})'),
    stat("Free slots", "short", 'sum(reelhaul_fetcher_slots{state="free"})'),
    stat("Kept media", "bytes", "sum(reelhaul_kept_media_bytes)", description="Kept between attempts."),
    stat(
        "Restarts of guard and zygote, 1 h",
        "short",
        "sum(increase(reelhaul_engine_restarts_total[1h]))",
        *low_is_good(1, 4),
    ),
    Panel(
        "Slots",
        "short",
        {"{{instance}} {{state}}": "sum by (instance, state) (reelhaul_fetcher_slots)"},
        stacked=True,
    ),
    Panel(
        "Time spent by stage",
        "percentunit",
        {
            "{{stage}}": rate("reelhaul_fetch_stage_seconds_sum", "stage"),
        },
        "1 is one attempt that is in this stage all the time.",
        stacked=True,
    ),
    Panel(
        "Duration of stages, 90th percentile",
        "s",
        {"{{stage}}": quantile(0.9, "reelhaul_fetch_stage_seconds", "stage")},
    ),
    Panel(
        "Received by site",
        "Bps",
        {"{{site}}": top(rate("reelhaul_fetch_bytes_total", "site"))},
        stacked=True,
    ),
    Panel(
        "Taken over from earlier attempts",
        "Bps",
        {"resumed": "sum(rate(reelhaul_fetch_resumed_bytes_total[$__rate_interval]))"},
    ),
    Panel("Probes", "ops", {"{{result}}": rate("reelhaul_probe_cache_total", "result")}, stacked=True),
    Panel(
        "Bytes by egress",
        "Bps",
        {"{{egress}} {{direction}}": rate("reelhaul_egress_bytes_total", "egress, direction")},
    ),
    Panel(
        "Connections by egress",
        "short",
        {"{{egress}}": "sum by (egress) (reelhaul_egress_connections)"},
        stacked=True,
    ),
    Panel(
        "Refused by the guard",
        "ops",
        {"{{reason}}": rate("reelhaul_guard_refused_total", "reason")},
        stacked=True,
    ),
    Panel(
        "Memory of the engine",
        "bytes",
        {"{{instance}} {{process}}": "sum by (instance, process) (reelhaul_engine_process_bytes)"},
        stacked=True,
    ),
    Panel(
        "Restarts of engine processes",
        "ops",
        {"{{process}}": rate("reelhaul_engine_restarts_total", "process")},
    ),
    Panel(
        "Failed by reason",
        "ops",
        {"{{reason}}": rate("reelhaul_attempts_ended_total", "reason", '{outcome=~"FAILED|LOST"}')},
        stacked=True,
    ),
)

STORAGE = (
    stat("Artifacts", "short", "max(reelhaul_artifacts)"),
    stat("Stored", "bytes", "max(reelhaul_artifact_bytes)"),
    stat(
        "Damaged or missing blobs",
        "short",
        "max(reelhaul_damaged_blobs)",
        *low_is_good(1, 1),
    ),
    stat(
        "Least free disk",
        "percentunit",
        'min(reelhaul_disk_bytes{job="reelhaul-storage",state="free"}'
        ' / ignoring (state) reelhaul_disk_bytes{job="reelhaul-storage",state="total"})',
        *high_is_good(0.03, 0.1),
    ),
    Panel(
        "Operations",
        "ops",
        {"{{backend}} {{operation}}": rate("reelhaul_storage_operations_total", "backend, operation")},
        stacked=True,
    ),
    Panel(
        "Operations that do not succeed",
        "ops",
        {
            "{{operation}} {{outcome}}": rate(
                "reelhaul_storage_operations_total", "operation, outcome", '{outcome!="ok"}'
            ),
        },
        stacked=True,
    ),
    Panel(
        "Duration of operations, 95th percentile",
        "s",
        {
            "{{backend}} {{operation}}": quantile(
                0.95, "reelhaul_storage_operation_seconds", "backend, operation"
            ),
        },
    ),
    Panel("Uploads", "ops", {"{{result}}": rate("reelhaul_storage_uploads_total", "result")}, stacked=True),
    Panel("Bytes", "Bps", {"{{direction}}": rate("reelhaul_storage_bytes_total", "direction")}),
    Panel(
        "Requests of signed links",
        "reqps",
        {"{{code}}": rate("reelhaul_link_requests_total", "code")},
        stacked=True,
    ),
    Panel("Stored bytes", "bytes", {"stored": "max(reelhaul_artifact_bytes)"}),
    Panel(
        "Deleted by garbage collection",
        "Bps",
        {"deleted": "sum(rate(reelhaul_storage_deleted_bytes_total[$__rate_interval]))"},
    ),
    Panel(
        "Checked again",
        "Bps",
        {"checked": "sum(rate(reelhaul_storage_scrubbed_bytes_total[$__rate_interval]))"},
    ),
    Panel("Found damaged", "ops", {"{{kind}}": rate("reelhaul_storage_scrub_errors_total", "kind")}),
)

GATEWAY = (
    Panel(
        "Requests by status",
        "reqps",
        {
            "{{http_response_status_code}}": rate("http_server_requests_total", "http_response_status_code"),
        },
        stacked=True,
    ),
    Panel(
        "Requests by route",
        "reqps",
        {
            "{{http_request_method}} {{http_route}}": top(
                rate("http_server_requests_total", "http_request_method, http_route")
            ),
        },
        stacked=True,
    ),
    Panel(
        "Errors by route",
        "reqps",
        {
            "{{http_route}} {{http_response_status_code}}": rate(
                "http_server_requests_total",
                "http_route, http_response_status_code",
                '{http_response_status_code=~"5.."}',
            ),
        },
        stacked=True,
    ),
    Panel("Latency", "s", quantiles("http_server_request_duration_seconds")),
    Panel(
        "Slowest routes, 99th percentile",
        "s",
        {
            "{{http_route}}": top(quantile(0.99, "http_server_request_duration_seconds", "http_route")),
        },
    ),
    Panel(
        "Requests in progress",
        "short",
        {"{{instance}}": "sum by (instance) (http_server_active_requests)"},
        stacked=True,
    ),
    Panel(
        "Connections", "short", {"{{instance}}": "sum by (instance) (http_server_connections)"}, stacked=True
    ),
    Panel(
        "Refused connections", "ops", {"{{limit}}": rate("http_server_refused_connections_total", "limit")}
    ),
    Panel("Open streams", "short", {"{{kind}}": "sum by (kind) (http_server_streams)"}, stacked=True),
    Panel(
        "Bytes sent",
        "Bps",
        {"{{instance}}": rate("http_server_response_bytes_total", "instance")},
        stacked=True,
    ),
    Panel(
        "Hits of caches",
        "percentunit",
        {
            "{{cache}}": rate("reelhaul_gateway_cache_total", "cache", '{result="hit"}')
            + " / "
            + rate("reelhaul_gateway_cache_total", "cache"),
            "credentials": 'sum(rate(reelhaul_credential_cache_total{result="hit"}[$__rate_interval]))'
            " / sum(rate(reelhaul_credential_cache_total[$__rate_interval]))",
        },
    ),
    Panel(
        "Calls refused",
        "reqps",
        {
            "credential: {{reason}}": rate("reelhaul_authentication_failures_total", "reason"),
            "rate limit: {{level}}": rate("reelhaul_rate_limited_total", "level"),
        },
        stacked=True,
    ),
)
