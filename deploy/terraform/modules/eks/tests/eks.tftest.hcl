mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/role" }
  }

  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
}

variables {
  name                 = "test"
  kubernetes_version   = "1.34"
  kubernetes_namespace = "reelhaul"
  vpc_id               = "vpc-1"
  kms_key_arn          = "arn:aws:kms:eu-central-1:123456789012:key/0"
  access_ranges        = []
  administrator_arns   = ["arn:aws:iam::123456789012:role/operator"]
  subnet_ids = {
    services = ["subnet-1", "subnet-2"]
    fetchers = ["subnet-3", "subnet-4"]
  }
  security_group_ids = {
    gateway = "sg-gateway", jobs = "sg-jobs", storage = "sg-storage", fetcher = "sg-fetcher", database = "sg-database"
  }
  task_role_arns = {
    storage          = "arn:aws:iam::123456789012:role/storage"
    collector        = "arn:aws:iam::123456789012:role/collector"
    external-secrets = "arn:aws:iam::123456789012:role/external-secrets"
  }
  nodes = {
    services = { instance_types = ["t3.large"], disk = 40, min = 2, max = 4 }
    fetchers = { instance_types = ["m6i.large"], disk = 100, min = 1, max = 4 }
  }
}

run "cluster" {
  command = plan

  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_private_access && !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "Without ranges the API is called from within the VPC alone."
  }

  assert {
    condition     = alltrue([for template in aws_launch_template.this : template.metadata_options[0].http_tokens == "required" && template.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "Nodes require tokens of one hop."
  }
  assert {
    condition     = toset(aws_eks_node_group.this["fetchers"].subnet_ids) == toset(["subnet-3", "subnet-4"])
    error_message = "Nodes of fetchers are in the subnets of fetchers."
  }

  assert {
    condition     = length(aws_eks_node_group.this["fetchers"].taint) == 1 && length(aws_eks_node_group.this["services"].taint) == 0
    error_message = "Nothing but fetchers runs on nodes of fetchers."
  }

  assert {
    condition     = !contains(keys(aws_eks_pod_identity_association.this), "fetcher")
    error_message = "Fetchers have no role."
  }
}

run "whole_internet_is_refused" {
  command = plan

  variables {
    access_ranges = ["0.0.0.0/0"]
  }

  expect_failures = [var.access_ranges]
}
