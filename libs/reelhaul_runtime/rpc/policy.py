"""What ``option (reelhaul.type.v1.policy)`` says of each method: read from descriptors, once."""

from __future__ import annotations

from functools import cache

from google.protobuf import descriptor, descriptor_pool

from reelhaul.type.v1 import method_policy_pb2

#: Deadline that the server grants where a policy names none (MethodPolicy.max_deadline).
_DEFAULT_DEADLINE_SECONDS = 30.0


@cache
def method_of(path: str) -> descriptor.MethodDescriptor:
    """The method of a gRPC path, ``/package.Service/Method``. KeyError if there is none."""
    service, _, method = path.removeprefix("/").rpartition("/")
    found: descriptor.ServiceDescriptor = descriptor_pool.Default().FindServiceByName(service)
    return found.methods_by_name[method]


@cache
def policy_of(path: str) -> method_policy_pb2.MethodPolicy:
    """Who may call the method and how the call is bounded."""
    policy: method_policy_pb2.MethodPolicy = method_of(path).GetOptions().Extensions[method_policy_pb2.policy]
    return policy


@cache
def max_deadline_of(path: str) -> float:
    """Seconds that a call of the method may take at most."""
    policy = policy_of(path)
    if not policy.HasField("max_deadline"):
        return _DEFAULT_DEADLINE_SECONDS
    return policy.max_deadline.ToTimedelta().total_seconds()
