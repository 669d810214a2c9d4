"""Costs of a run: CPU time and memory of each process, rows of the databases, messages, requests."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import httpx
import psutil
import psycopg
from prometheus_client.parser import text_string_to_metric_families
from tests.load.topology import Topology

_MEGABYTE = 1e6


@dataclass(frozen=True)
class Costs:
    """Totals since the start, by what caused them."""

    #: CPU seconds of each service with everything that it started, all replicas together.
    cpu: Mapping[str, float]
    #: Megabytes (PSS) of each process of the services that lives long, by replica.
    megabytes: Mapping[str, float]
    #: Megabytes (PSS) of each replica with all processes that it started.
    tree_megabytes: Mapping[str, float]
    #: Rows of each table of the jobs database.
    rows: Mapping[str, int]
    #: Bytes of the databases by name, and what the server did: transactions, rows inserted, updated.
    database: Mapping[str, float]
    #: Messages that the brokers took from clients and sent to them.
    messages: Mapping[str, float]
    #: Requests to S3 by their name.
    s3: Mapping[str, float]


def measure(topology: Topology, others: Mapping[str, int]) -> Costs:
    """Measure what has been used until now. *others*: pids of further processes whose CPU counts."""
    cpu, megabytes, tree_megabytes = defaultdict[str, float](float), {}, {}
    for replica in topology.replicas:
        root = psutil.Process(replica.process.pid)
        children = root.children()
        cpu[replica.service] += tree_cpu_seconds(root.pid)
        # Downloads are grandchildren: the zygote forks them.
        megabytes[replica.name] = sum(_pss(process.pid) for process in (root, *children))
        tree_megabytes[replica.name] = sum(_pss(pid) for pid in _tree(root.pid))
    for name, pid in {**_servers(topology), **others}.items():
        cpu[name.partition("-")[0]] += tree_cpu_seconds(pid)
    # The callers and the site.
    cpu["generator"] = time.process_time()
    return Costs(
        dict(cpu),
        megabytes,
        tree_megabytes,
        _count_rows(topology.jobs_database),
        _read_database(topology),
        _count_messages(topology),
        _count_s3_requests(topology),
    )


def tree_cpu_seconds(root: int) -> float:
    """Return the CPU seconds of the process *root* and of everything that it started."""
    seconds = 0.0
    for pid in _tree(root):
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _tree(root: int) -> list[int]:
    with suppress(psutil.Error):
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    return []


def _pss(pid: int) -> float:
    """Return the proportional memory in MB; 0 for a process that has ended."""
    with suppress(psutil.Error, OSError):
        return float(psutil.Process(pid).memory_full_info().pss) / _MEGABYTE
    return 0.0


def _servers(topology: Topology) -> dict[str, int]:
    assert topology.s3.process is not None
    with psycopg.connect(topology.jobs_database) as connection:
        backend = int(_one(connection, "SELECT pg_backend_pid()")[0])
        server = psutil.Process(backend).ppid()
    brokers = {f"nats-{name}": pid for name, pid in topology.nats.pids.items()}
    return {"postgresql": server, "s3": topology.s3.process.pid, **brokers}


def _count_rows(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        names = [
            str(name)
            for (name,) in connection.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
            if not str(name).startswith("chaos_")
        ]
        return {name: int(_one(connection, f'SELECT count(*) FROM "{name}"')[0]) for name in names}


def _read_database(topology: Topology) -> dict[str, float]:
    figures = dict[str, float]()
    for name, url in (("jobs", topology.jobs_database), ("storage", topology.storage_database)):
        with psycopg.connect(url) as connection:
            # The audit of the test is not part of what a job costs.
            size = (
                "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r'"
                " AND relnamespace = 'public'::regnamespace AND relname NOT LIKE 'chaos_%'"
            )
            figures[f"{name} bytes"] = float(_one(connection, size)[0])
            columns = ("xact_commit", "tup_inserted", "tup_updated")
            row = _one(
                connection,
                f"SELECT {', '.join(columns)} FROM pg_stat_database WHERE datname = current_database()",
            )
            figures |= {f"{name} {column}": float(value) for column, value in zip(columns, row, strict=True)}
    return figures


def _count_messages(topology: Topology) -> dict[str, float]:
    """Return the messages between the brokers and their clients, and within the cluster."""
    messages = Counter[str]()
    for port in topology.nats.monitoring.values():
        address = f"http://127.0.0.1:{port}"
        for path, name in (("connz", "clients"), ("routez", "cluster")):
            figures = httpx.get(f"{address}/{path}", trust_env=False).json()
            for connection in figures["connections" if path == "connz" else "routes"]:
                messages[f"messages from {name}"] += connection["in_msgs"]
                messages[f"messages to {name}"] += connection["out_msgs"]
    return dict(messages)


def _count_s3_requests(topology: Topology) -> dict[str, float]:
    """Return the requests to S3 by the names of SeaweedFS's metrics: PUT, GET, HEAD …"""
    url = f"http://127.0.0.1:{topology.s3.metrics_port}/metrics"
    requests = Counter[str]()
    for family in text_string_to_metric_families(httpx.get(url, trust_env=False).text):
        for sample in family.samples:
            if sample.name == "SeaweedFS_s3_request_total":
                requests[sample.labels["type"]] += sample.value  # type: ignore[assignment]
    return dict(requests)


def _one(connection: psycopg.Connection, statement: str) -> tuple[float, ...]:
    row = connection.execute(statement).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return tuple(row)
