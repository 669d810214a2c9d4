mock_provider "aws" {
  override_during = plan

  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }

  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/suite/0" }
  }

  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/suite/0" }
  }

  mock_resource "aws_lb_listener" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/suite/0/0" }
  }

  mock_resource "aws_efs_file_system" {
    defaults = { arn = "arn:aws:elasticfilesystem:eu-central-1:123456789012:file-system/fs-0" }
  }
}

variables {
  name      = "test"
  namespace = "test.internal"
  images = {
    all       = "registry.example.org/reelhaul/all@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    server    = "registry.example.org/reelhaul/server@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    nats      = "registry.example.org/reelhaul/nats@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    collector = "registry.example.org/reelhaul/collector@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  }
  sizes = {
    gateway = { cpu = 256, memory = 512, min = 1, max = 2 }
    jobs    = { cpu = 512, memory = 1024, min = 1, max = 2 }
    storage = { cpu = 256, memory = 512, min = 1, max = 2 }
    fetcher = { cpu = 1024, memory = 4096, min = 1, max = 4 }
  }
  fetcher      = { slots = 2, disk = 50 }
  vpc_id       = "vpc-1"
  public_range = "10.20.0.0/18"
  subnet_ids = {
    public = ["subnet-1", "subnet-2"], services = ["subnet-3", "subnet-4"], fetchers = ["subnet-5", "subnet-6"], data = ["subnet-7", "subnet-8"]
  }
  security_group_ids = {
    alb = "sg-alb", gateway = "sg-gateway", jobs = "sg-jobs", fetcher = "sg-fetcher", storage = "sg-storage", broker = "sg-broker", collector = "sg-collector", files = "sg-files"
  }
  execution_role_arns = {
    gateway   = "arn:aws:iam::123456789012:role/gateway-execution"
    jobs      = "arn:aws:iam::123456789012:role/jobs-execution"
    fetcher   = "arn:aws:iam::123456789012:role/fetcher-execution"
    storage   = "arn:aws:iam::123456789012:role/storage-execution"
    broker    = "arn:aws:iam::123456789012:role/broker-execution"
    collector = "arn:aws:iam::123456789012:role/collector-execution"
    databases = "arn:aws:iam::123456789012:role/databases-execution"
    migrate   = "arn:aws:iam::123456789012:role/migrate-execution"
    first-key = "arn:aws:iam::123456789012:role/first-key-execution"
  }
  task_role_arns = {
    storage   = "arn:aws:iam::123456789012:role/storage"
    broker    = "arn:aws:iam::123456789012:role/broker"
    collector = "arn:aws:iam::123456789012:role/collector"
    first-key = "arn:aws:iam::123456789012:role/first-key"
  }
  secret_arns = {
    suite_token          = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:suite_token"
    metrics_token        = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:metrics_token"
    broker               = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:broker"
    jobs_database_url    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:jobs_database_url"
    storage_database_url = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:storage_database_url"
    jobs_seal_keys       = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:jobs_seal_keys"
    storage_seal_keys    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:storage_seal_keys"
    link_key             = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:link_key"
    first_key            = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:first_key"
  }
  administrator_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:administrator"
  log_group_names = {
    gateway   = "/test/gateway", jobs = "/test/jobs", fetcher = "/test/fetcher", storage = "/test/storage", broker = "/test/broker", collector = "/test/collector"
    databases = "/test/databases", migrate = "/test/migrate", first-key = "/test/first-key", metrics = "/test/metrics"
  }
  kms_key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/0"
  media               = { storage_url = "s3://media?region=eu-central-1", link_url = "https://d0.cloudfront.net", link_key_pair_id = "K0" }
  rate_limit_url      = "rediss://cache:6379/0"
  edge                = { certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/0", web_acl_arn = "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/acl/0", domain = "media.example.org", zone_id = "Z0" }
  access_log_bucket   = "access"
  trace_sample_ratio  = 1
  deletion_protection = false
}

run "services" {
  command = plan

  assert {
    condition = alltrue([
      for task in merge(aws_ecs_task_definition.service, aws_ecs_task_definition.task) :
      jsondecode(task.container_definitions)[0].readonlyRootFilesystem && jsondecode(task.container_definitions)[0].user == "10001:10001" &&
      jsondecode(task.container_definitions)[0].linuxParameters.capabilities.drop == ["ALL"]
    ])
    error_message = "Containers run as 10001, without capabilities, on a root file system that they cannot write."
  }

  assert {
    condition     = !anytrue([for service in aws_ecs_service.this : service.network_configuration[0].assign_public_ip])
    error_message = "No task has a public address."
  }

  assert {
    condition     = aws_ecs_task_definition.service["fetcher"].task_role_arn == null && aws_ecs_task_definition.service["gateway"].task_role_arn == null && aws_ecs_task_definition.service["jobs"].task_role_arn == null
    error_message = "Of the services that take requests or run downloads, storage alone may call AWS."
  }

  assert {
    condition     = !anytrue([for service in aws_ecs_service.this : coalesce(service.enable_execute_command, false)])
    error_message = "Nobody opens a shell in a task."
  }

  assert {
    condition = aws_lb_listener_rule.suite_token.action[0].type == "fixed-response" && alltrue([
      for rule in aws_lb_listener_rule.grpc : aws_lb_listener_rule.suite_token.priority < rule.priority
    ])
    error_message = "A request with the suite token is refused before anything is forwarded."
  }

  assert {
    condition     = toset(aws_ecs_service.this["fetcher"].network_configuration[0].subnets) == toset(["subnet-5", "subnet-6"])
    error_message = "Fetchers are in subnets of their own."
  }

  assert {
    condition = alltrue([
      for secret in jsondecode(aws_ecs_task_definition.service["fetcher"].container_definitions)[0].secrets :
      contains(["REELHAUL_SUITE_TOKEN", "REELHAUL_METRICS_TOKEN", "REELHAUL_NATS_URL"], secret.name)
    ])
    error_message = "Fetchers get no secret of the databases or of links."
  }
  assert {
    condition     = aws_ecs_service.this["broker"].deployment_maximum_percent == 100 && aws_ecs_service.this["broker"].deployment_minimum_healthy_percent == 0 && !contains(keys(aws_appautoscaling_target.this), "broker")
    error_message = "Two brokers must not share a store."
  }
  assert {
    condition     = aws_appautoscaling_target.this["fetcher"].min_capacity == 1 && aws_appautoscaling_target.this["fetcher"].max_capacity == 4
    error_message = "Fetchers are 1 to 4."
  }

  assert {
    condition = toset([
      for metric in aws_appautoscaling_policy.queue[0].target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics :
      metric.metric_stat[0].metric[0].metric_name if length(metric.metric_stat) > 0
    ]) == toset(["reelhaul_work_items", "reelhaul_worker_slots"])
    error_message = "The lag is the number of work items per slot."
  }
}

run "nothing_runs_without_images" {
  command = plan

  variables {
    images = null
  }

  assert {
    condition     = length(aws_ecs_service.this) == 0 && length(aws_ecs_task_definition.service) == 0 && length(aws_appautoscaling_target.this) == 0 && length(output.tasks) == 0
    error_message = "Before the first images are pushed there are no services."
  }
}

run "images_by_tag_are_refused" {
  command = plan

  variables {
    images = { all = "reelhaul:latest", server = "reelhaul-server:latest", nats = "nats:2.15", collector = "collector:latest" }
  }

  expect_failures = [var.images]
}

run "no_fetcher_is_refused" {
  command = plan

  variables {
    sizes = {
      gateway = { cpu = 256, memory = 512, min = 1, max = 2 }
      jobs    = { cpu = 512, memory = 1024, min = 1, max = 2 }
      storage = { cpu = 256, memory = 512, min = 1, max = 2 }
      fetcher = { cpu = 1024, memory = 4096, min = 0, max = 4 }
    }
  }

  expect_failures = [var.sizes]
}
