locals {
  # Keys must be known before the values are.
  running = var.images == null ? [] : keys(local.services)
}

resource "aws_ecs_task_definition" "service" {
  for_each = toset(local.running)

  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = local.sizes[each.key].cpu
  memory                   = local.sizes[each.key].memory
  execution_role_arn       = var.execution_role_arns[each.key]
  task_role_arn            = lookup(var.task_role_arns, each.key, null)

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }

  dynamic "ephemeral_storage" {
    for_each = each.key == "fetcher" ? [var.fetcher.disk] : []
    content {
      size_in_gib = ephemeral_storage.value
    }
  }

  # A volume of the task, deleted with it, with the owner that the image gives to /data.
  dynamic "volume" {
    for_each = contains(["broker", "collector"], each.key) ? [] : ["data"]
    content {
      name = volume.value
    }
  }

  dynamic "volume" {
    for_each = each.key == "broker" ? ["data"] : []
    content {
      name = volume.value

      efs_volume_configuration {
        file_system_id     = aws_efs_file_system.broker.id
        transit_encryption = "ENABLED"

        authorization_config {
          access_point_id = aws_efs_access_point.broker.id
          iam             = "ENABLED"
        }
      }
    }
  }

  container_definitions = jsonencode([merge(
    {
      name                   = each.key
      image                  = local.services[each.key].image
      essential              = true
      command                = local.services[each.key].command
      user                   = "10001:10001"
      readonlyRootFilesystem = true
      linuxParameters        = { capabilities = { drop = ["ALL"] }, initProcessEnabled = false }
      stopTimeout            = each.key == "fetcher" ? 120 : 30
      portMappings           = [for port in local.services[each.key].ports : { containerPort = port, hostPort = port, protocol = "tcp" }]
      environment            = [for name, value in local.services[each.key].environment : { name = name, value = value }]
      secrets                = [for name, value in local.services[each.key].secrets : { name = name, valueFrom = value }]
      mountPoints            = each.key == "collector" ? [] : [{ sourceVolume = "data", containerPath = "/data", readOnly = false }]
      healthCheck            = { command = local.services[each.key].health, interval = 10, timeout = 5, retries = 3, startPeriod = 60 }
      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = var.log_group_names[each.key]
          awslogs-region        = data.aws_region.current.name
          awslogs-stream-prefix = each.key
          mode                  = "non-blocking"
          max-buffer-size       = "4m"
        }
      }
    },
    try({ entryPoint = local.services[each.key].entry_point }, {}),
  )])
}

resource "aws_ecs_service" "this" {
  for_each = toset(local.running)

  name             = each.key
  cluster          = aws_ecs_cluster.this.id
  task_definition  = aws_ecs_task_definition.service[each.key].arn
  desired_count    = local.sizes[each.key].min
  launch_type      = "FARGATE"
  platform_version = "LATEST"

  # The broker is stopped before its successor starts.
  deployment_minimum_healthy_percent = each.key == "broker" ? 0 : 100
  deployment_maximum_percent         = each.key == "broker" ? 100 : 200
  availability_zone_rebalancing      = each.key == "broker" ? "DISABLED" : "ENABLED"
  health_check_grace_period_seconds  = local.services[each.key].target_port == null ? null : 60
  propagate_tags                     = "SERVICE"

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnet_ids[local.services[each.key].subnets]
    security_groups  = [var.security_group_ids[each.key]]
    assign_public_ip = false
  }

  service_registries {
    registry_arn = aws_service_discovery_service.this[each.key].arn
  }

  dynamic "load_balancer" {
    for_each = local.services[each.key].target_port == null ? [] : [local.services[each.key].target_port]
    content {
      target_group_arn = aws_lb_target_group.this[each.key].arn
      container_name   = each.key
      container_port   = load_balancer.value
    }
  }

  # Autoscaling sets it.
  lifecycle {
    ignore_changes = [desired_count]
  }

  depends_on = [aws_lb_listener.https, aws_lb_listener_rule.grpc, aws_efs_mount_target.broker]
}
