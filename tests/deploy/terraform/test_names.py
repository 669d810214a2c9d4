"""Names in the Terraform modules equal those of the code, of compose.yaml and of the documentation."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml
from tests.deploy.terraform.terraform import ROOT, SOURCE

from reelhaul.work.v1 import lease_service_pb2, process_service_pb2
from reelhaul_gateway.transcoding import SERVICES
from reelhaul_runtime.auth.peers import SUITE_TOKEN_KEY

_ECS = SOURCE / "modules/ecs"
_CONTAINERS = (_ECS / "containers.tf").read_text()
_COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
_SERVICES = ("gateway", "jobs", "fetcher", "storage")


def environment_of(service: str) -> dict[str, str]:
    """Return the settings of *service* in modules/ecs that are text, and those that all services have."""
    (block,) = re.findall(rf"\n    {service} = \{{\n(.*?)\n    \}}\n", _CONTAINERS, re.DOTALL)
    return dict(re.findall(r'(REELHAUL_\w+) += "([^"]*)"', block))


def test_settings_exist():
    """Each REELHAUL_ variable of a task is a setting that the services know."""
    used = {name for file in _ECS.glob("*.tf") for name in re.findall(r"REELHAUL_\w+", file.read_text())}
    known = set(re.findall(r"^#?(REELHAUL_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used
    assert used - known == set()


@pytest.mark.parametrize("service", _SERVICES)
def test_addresses_are_those_of_compose(service: str):
    """A service listens where it does in compose.yaml."""
    compose = _COMPOSE["services"][service]["environment"]
    names = [name for name in compose if name.endswith("_ADDRESS") and service.upper() in name]
    assert names
    settings = environment_of(service)
    assert {name: settings[name] for name in names} == {name: compose[name] for name in names}
    (ports,) = re.findall(rf"\n    {service} = \{{\n.*?ports +=  *\[([^\]]*)\]", _CONTAINERS, re.DOTALL)
    assert {int(port) for port in ports.split(",")} == {
        int(compose[name].rpartition(":")[2]) for name in names
    }


def test_metrics_exist():
    """Each metric that is forwarded, watched by an alarm or used by the scaling is one that jobs exposes."""
    documented = set(re.findall(r"`(reelhaul_\w+)`", (ROOT / "docs/metrics.md").read_text()))
    collector = (_ECS / "collector.yml").read_text()
    (kept,) = re.findall(r"regex: (\S+)", collector)
    forwarded = set(kept.split("|"))
    assert forwarded <= documented
    assert set(re.findall(r"include: (\w+)", collector)) == forwarded, "each is reduced to one series"
    used = {
        name
        for file in [*SOURCE.glob("modules/observability/*.tf"), _ECS / "scaling.tf"]
        for name in re.findall(r'"(reelhaul_\w+)"', file.read_text())
    }
    assert used
    assert used <= forwarded


def test_alarms_name_runbooks():
    """Each alarm names a runbook that exists."""
    text = (SOURCE / "modules/observability/alarms.tf").read_text()
    named = re.findall(r'runbook += "(\w+)"', text)
    assert len(named) == text.count("threshold = "), "each alarm names one"
    assert [name for name in named if not (ROOT / f"docs/runbooks/{name}.md").exists()] == []


def test_secrets_of_the_overlay_exist():
    """Each secret that the overlay `production` of deploy/k8s reads is one that Terraform creates."""
    overlay = (ROOT / "deploy/k8s/overlays/production/secrets.yaml").read_text()
    prefix = re.findall(r'name += "(\S+)"', (SOURCE / "environments/production/main.tf").read_text())[0]
    created = re.findall(
        r'"(\w+)"', (SOURCE / "modules/secrets/main.tf").read_text().partition("values =")[0]
    )
    read = re.findall(r"remoteRef: \{key: ([\w-]+)/(\w+)", overlay)
    assert read
    assert {name for name, _ in read} == {prefix}
    assert {secret for _, secret in read} <= set(created)


def test_load_balancer_forwards_the_public_services():
    """Every service that clients call has a rule to its owner, and internal ones have none."""
    text = (_ECS / "load_balancer.tf").read_text()
    rules = re.findall(r'target = "(\w+)", paths = \[(.*?)\]', text)
    assert rules
    found = {
        service.full_name: target
        for owner in ("jobs", "storage")
        for service in SERVICES[owner]
        for target, paths in rules
        if any(fnmatchcase(f"/{service.full_name}/Call", path) for path in re.findall(r'"(.*?)"', paths))
    }
    assert found == {service.full_name: owner for owner in ("jobs", "storage") for service in SERVICES[owner]}
    for file in (lease_service_pb2, process_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for path in re.findall(r'"(/.*?)"', " ".join(paths for _, paths in rules)):
                assert not fnmatchcase(f"/{service.full_name}/Call", path), path
    # https://docs.aws.amazon.com/elasticloadbalancing/latest/application/listener-rules.html
    assert max(paths.count('"') // 2 for _, paths in rules) <= 3


def test_load_balancer_refuses_the_suite_token():
    """The header that the load balancer refuses is the one in which services send their credential."""
    text = (_ECS / "load_balancer.tf").read_text()
    (rule,) = re.findall(r'"aws_lb_listener_rule" "suite_token" \{(.*?)\n\}\n', text, re.DOTALL)
    assert re.findall(r'http_header_name = "(\S+)"', rule) == [SUITE_TOKEN_KEY]


def test_roles_of_services_of_aws_are_for_this_account():
    """A service of AWS takes a role for this account alone, and not at the request of another one."""
    trusted = []
    for file in SOURCE.rglob("*.tf"):
        for statement in re.findall(r"\n  statement \{\n(.*?)\n  \}\n", file.read_text(), re.DOTALL):
            services = re.findall(r'identifiers = \["(\S+)\.amazonaws\.com"\]', statement)
            if "sts:AssumeRole" not in statement or not services:
                continue
            trusted += services
            # Instances get the roles of their own account alone.
            assert "aws:SourceAccount" in statement or services == ["ec2"], f"{file}: {services}"
    assert {"ecs-tasks", "pods.eks", "eks", "vpc-flow-logs"} <= set(trusted)


def test_permissions_of_storage_are_those_documented():
    """The role of storage has the permissions on the bucket that docs/storage.md lists, and no others."""
    (text,) = re.findall(
        r"The credentials need (.*?)\. At the start", (ROOT / "docs/storage.md").read_text(), re.DOTALL
    )
    policy = (SOURCE / "modules/iam/main.tf").read_text()
    (statements,) = re.findall(r'"aws_iam_policy_document" "storage" \{(.*?)\n\}\n', policy, re.DOTALL)
    assert set(re.findall(r'"(s3:\w+)"', statements)) == set(re.findall(r"`(s3:\w+)`", text))


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.tf")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_permission_for_everything_without_a_reason(file: Path):
    """A policy with the resource * says why in the comment above its statement."""
    text = file.read_text()
    for match in re.finditer(r"\n\n?((?:  #[^\n]*\n)*)  statement \{\n((?:    [^\n]*\n|\n)*?)  \}\n", text):
        comment, statement = match[1], match[2]
        if re.search(r'resources += \["\*"\]', statement):
            in_key = "kms:" in statement and "principals" in statement
            assert comment or in_key, f"{file}: {statement}"
