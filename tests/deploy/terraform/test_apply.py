"""Staging is applied to a simulated AWS by the real provider, looked at as a user would, and destroyed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.terraform.simulated_aws import REGION, SimulatedAws, simulated_aws
from tests.deploy.terraform.terraform import Terraform

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(1800)]

_NAME = "reelhaul-staging"
_REGISTRY = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/reelhaul"
_SERVICES = {"gateway", "jobs", "fetcher", "storage", "broker", "collector"}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedAws]:
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is missing: run make .venv/deploy.stamp")
    with simulated_aws(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="module")
def staging(aws: SimulatedAws, terraform: Terraform, copy: Path) -> Path:
    """The folder of the environment, applied."""
    folder = aws.override(copy, "staging")
    zone = aws.client("route53").create_hosted_zone(Name="example.org", CallerReference="zone")["HostedZone"]
    variables = {
        "region": REGION,
        "domain": "staging.media.example.org",
        "zone_id": zone["Id"].rpartition("/")[2],
        "images": {
            image: f"{_REGISTRY}/{image}@sha256:{'0' * 64}"
            for image in ("all", "server", "nats", "collector")
        },
    }
    (folder / "test.auto.tfvars.json").write_text(json.dumps(variables))
    terraform.run(folder, "init")
    terraform.run(folder, "apply", "-auto-approve")
    return folder


def policies_of(aws: SimulatedAws, role: str) -> list[dict[str, Any]]:
    """Return the statements of the inline policies of *role*."""
    iam = aws.client("iam")
    return [
        statement
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
        for statement in iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"]
    ]


def test_bucket_is_private_encrypted_and_versioned(aws: SimulatedAws, staging: Path):
    """Nobody reads artifacts without a signed URL, and what is deleted can be restored."""
    s3 = aws.client("s3")
    (bucket,) = (each["Name"] for each in s3.list_buckets()["Buckets"] if "-media-" in each["Name"])
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    allowed = [each for each in policy["Statement"] if each["Effect"] == "Allow"]
    assert [each["Principal"] for each in allowed] == [{"Service": "cloudfront.amazonaws.com"}]


def test_database_is_private_encrypted_and_restorable(aws: SimulatedAws, staging: Path):
    """The database has no public address, is encrypted, and can be restored to a point in time."""
    (database,) = aws.client("rds").describe_db_instances()["DBInstances"]
    assert not database["PubliclyAccessible"]
    assert database["StorageEncrypted"]
    assert database["BackupRetentionPeriod"] == 7


def test_load_balancer_alone_is_open(aws: SimulatedAws, staging: Path):
    """The internet reaches the ports 80 and 443 of the load balancer."""
    groups = aws.client("ec2").describe_security_groups()["SecurityGroups"]
    opened = {
        (group["GroupName"], rule["FromPort"])
        for group in groups
        for rule in group["IpPermissions"]
        if group["GroupName"].startswith(_NAME) and rule["IpRanges"]
    }
    assert opened == {(f"{_NAME}-alb", 80), (f"{_NAME}-alb", 443)}


def test_fetchers_have_no_path_to_the_database(aws: SimulatedAws, staging: Path):
    """The database admits jobs and storage; fetchers are in other subnets and another security group."""
    groups = {
        group["GroupId"]: group for group in aws.client("ec2").describe_security_groups()["SecurityGroups"]
    }
    (database,) = (group for group in groups.values() if group["GroupName"] == f"{_NAME}-database")
    admitted = {
        groups[pair["GroupId"]]["GroupName"]
        for rule in database["IpPermissions"]
        for pair in rule["UserIdGroupPairs"]
    }
    assert admitted == {f"{_NAME}-jobs", f"{_NAME}-storage"}
    services = aws.client("ecs").describe_services(cluster=_NAME, services=["fetcher", "jobs"])["services"]
    networks = {
        service["serviceName"]: service["networkConfiguration"]["awsvpcConfiguration"] for service in services
    }
    assert not set(networks["fetcher"]["subnets"]) & set(networks["jobs"]["subnets"])
    assert [groups[group]["GroupName"] for group in networks["fetcher"]["securityGroups"]] == [
        f"{_NAME}-fetcher"
    ]


def test_services_have_roles_of_their_own(aws: SimulatedAws, staging: Path):
    """No two tasks share a role, and fetchers have none that their processes could use."""
    ecs = aws.client("ecs")
    services = ecs.list_services(cluster=_NAME)["serviceArns"]
    assert {each.rpartition("/")[2] for each in services} == _SERVICES
    tasks = {
        service: ecs.describe_task_definition(taskDefinition=f"{_NAME}-{service}")["taskDefinition"]
        for service in _SERVICES
    }
    assert len({task["executionRoleArn"] for task in tasks.values()}) == len(_SERVICES)
    assert {service for service, task in tasks.items() if task.get("taskRoleArn")} == {
        "storage",
        "broker",
        "collector",
    }


def test_roles_are_least_privileged(aws: SimulatedAws, staging: Path):
    """Only actions that know no resource are allowed for all resources, and no role may do everything."""
    roles = aws.client("iam").list_roles(MaxItems=1000)["Roles"]
    everywhere: set[str] = set()
    for role in roles:
        for statement in policies_of(aws, role["RoleName"]):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not [action for action in actions if action.endswith(":*") or action == "*"]
            if statement["Resource"] == "*":
                everywhere.update(actions)
    assert everywhere == {
        "ecr:GetAuthorizationToken",
        "xray:PutTraceSegments",
        "xray:PutTelemetryRecords",
    }


def test_secrets_are_in_no_state(aws: SimulatedAws, staging: Path):
    """Secrets Manager has values of the right form; the state of Terraform has none of them."""
    secrets = aws.client("secretsmanager")

    def read(name: str) -> str:
        return str(secrets.get_secret_value(SecretId=f"{_NAME}/{name}")["SecretString"])

    broker = json.loads(read("broker"))
    assert broker["url"] == f"nats://{broker['token']}@broker.{_NAME}.internal:4222"
    assert read("jobs_database_url").startswith("postgresql://jobs:")
    assert len(read("jobs_seal_keys")) == 44
    state = (staging / "terraform.tfstate").read_text()
    for name in ("suite_token", "metrics_token", "jobs_seal_keys", "storage_seal_keys", "jobs_database_url"):
        assert len(read(name)) >= 32
        assert read(name) not in state
    assert broker["token"] not in state


@pytest.fixture(scope="module")
def account(aws: SimulatedAws, terraform: Terraform, copy: Path) -> Path:
    """The folder of what the environments share: the roles of the workflow, applied for a repository."""
    folder = aws.override(copy, "account")
    variables = {"region": REGION, "repository": "owner/reelhaul"}
    (folder / "test.auto.tfvars.json").write_text(json.dumps(variables))
    terraform.run(folder, "init")
    # moto forgets a part of the lifecycle of the bucket of states, for which the provider waits.
    terraform.run(folder, "apply", "-auto-approve", "-target=aws_iam_role_policy.delivery")
    return folder


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_workflow_takes_the_role_of_its_environment_alone(
    aws: SimulatedAws, terraform: Terraform, account: Path, environment: str
):
    """A run of staging, which nobody approves, gets no role that production trusts, and the reverse."""
    arn = json.loads(terraform.run(account, "output", "-json", "delivery_role_arns"))[environment]
    role = aws.client("iam").get_role(RoleName=arn.rpartition("/")[2])["Role"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Condition"]["StringEquals"] == {
        "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
        "token.actions.githubusercontent.com:sub": f"repo:owner/reelhaul:environment:{environment}",
    }
    assert policies_of(aws, role["RoleName"]) == [
        {
            "Action": "eks:DescribeCluster",
            "Effect": "Allow",
            "Resource": f"arn:aws:eks:{REGION}:123456789012:cluster/reelhaul-{environment}",
        }
    ]


#: What moto does not delete, by the call that it lacks. Forgotten before the environment is destroyed.
_NOT_DELETED = {
    "module.suite.module.media.aws_cloudfront_key_group.this": "DeleteKeyGroup",
    "module.suite.module.ecs[0].aws_efs_file_system_policy.broker": "DeleteFileSystemPolicy",
    "module.suite.module.cache.aws_elasticache_subnet_group.this": "DeleteCacheSubnetGroup",
}


def test_destroying_leaves_nothing(aws: SimulatedAws, staging: Path, terraform: Terraform):
    """`terraform destroy` deletes the environment: no service, database, network, role or secret is left."""
    terraform.run(staging, "state", "rm", *_NOT_DELETED)
    terraform.run(staging, "destroy", "-auto-approve", "-refresh=false")
    assert terraform.run(staging, "state", "list") == ""
    assert aws.client("rds").describe_db_instances()["DBInstances"] == []
    assert [
        each for each in aws.client("s3").list_buckets()["Buckets"] if each["Name"].startswith(_NAME)
    ] == []
    vpcs = aws.client("ec2").describe_vpcs(Filters=[{"Name": "isDefault", "Values": ["false"]}])["Vpcs"]
    assert vpcs == []
    roles = aws.client("iam").list_roles(MaxItems=1000)["Roles"]
    assert [role["RoleName"] for role in roles if role["RoleName"].startswith(_NAME)] == []
    assert aws.client("secretsmanager").list_secrets()["SecretList"] == []
    assert aws.client("elbv2").describe_load_balancers()["LoadBalancers"] == []
