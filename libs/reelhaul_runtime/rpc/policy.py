"""Method policies: ``option (reelhaul.type.v1.policy)`` of each method, read from its descriptor."""

from __future__ import annotations

from functools import cache

from google.protobuf import descriptor, descriptor_pool

from reelhaul.type.v1 import method_policy_pb2

#: The server's deadline if a policy has none (MethodPolicy.max_deadline).
_DEFAULT_DEADLINE_SECONDS = 30.0


@cache
def method_policy(path: str) -> method_policy_pb2.MethodPolicy:
    """Return the policy of the method at *path*, ``/package.Service/Method``. Raises KeyError."""
    method = method_descriptor(path)
    policy: method_policy_pb2.MethodPolicy = method.GetOptions().Extensions[method_policy_pb2.policy]
    return policy


@cache
def max_deadline_seconds(path: str) -> float:
    """Return the seconds that a call of the method may take at most."""
    policy = method_policy(path)
    if not policy.HasField("max_deadline"):
        return _DEFAULT_DEADLINE_SECONDS
    return policy.max_deadline.ToTimedelta().total_seconds()


def method_descriptor(path: str) -> descriptor.MethodDescriptor:
    """Return the descriptor of the method at *path*. Raises KeyError."""
    service_name, _, method_name = path.removeprefix("/").rpartition("/")
    service: descriptor.ServiceDescriptor = descriptor_pool.Default().FindServiceByName(service_name)
    return service.methods_by_name[method_name]
