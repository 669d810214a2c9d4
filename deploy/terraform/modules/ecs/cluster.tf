data "aws_region" "current" {}

resource "aws_ecs_cluster" "this" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = ["FARGATE"]
}

# jobs.{namespace} has an address of each replica; clients spread their calls over them.
resource "aws_service_discovery_private_dns_namespace" "this" {
  name        = var.namespace
  description = "Services of ${var.name}"
  vpc         = var.vpc_id
}

resource "aws_service_discovery_service" "this" {
  for_each = toset(["gateway", "jobs", "fetcher", "storage", "broker", "collector"])

  name = each.key

  dns_config {
    namespace_id   = aws_service_discovery_private_dns_namespace.this.id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      ttl  = 10
    }
  }

  # Replicas that ECS finds unhealthy leave the name.
  health_check_custom_config {
    failure_threshold = 1
  }
}

# --- the disk of the broker

resource "aws_efs_file_system" "broker" {
  creation_token  = "${var.name}-broker"
  encrypted       = true
  kms_key_id      = var.kms_key_arn
  throughput_mode = "elastic"
  tags            = { Name = "${var.name}-broker" }
}

resource "aws_efs_mount_target" "broker" {
  for_each = { for index, id in var.subnet_ids["data"] : index => id }

  file_system_id  = aws_efs_file_system.broker.id
  subnet_id       = each.value
  security_groups = [var.security_group_ids["files"]]
}

resource "aws_efs_access_point" "broker" {
  file_system_id = aws_efs_file_system.broker.id

  posix_user {
    uid = 10001
    gid = 10001
  }

  root_directory {
    path = "/nats"

    creation_info {
      owner_uid   = 10001
      owner_gid   = 10001
      permissions = "0700"
    }
  }
}

resource "aws_efs_file_system_policy" "broker" {
  file_system_id = aws_efs_file_system.broker.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Broker"
        Effect    = "Allow"
        Principal = { AWS = var.task_role_arns["broker"] }
        Action    = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
        Resource  = aws_efs_file_system.broker.arn
        Condition = { StringEquals = { "elasticfilesystem:AccessPointArn" = aws_efs_access_point.broker.arn } }
      },
      {
        Sid       = "OnlyTls"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "*"
        Resource  = aws_efs_file_system.broker.arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}
