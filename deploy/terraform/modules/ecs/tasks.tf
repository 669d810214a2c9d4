# Tasks that run once, by `aws ecs run-task` (docs/aws.md): create the databases, migrate them, create the first key.

locals {
  tasks = {
    databases = {
      entry_point = ["/opt/venv/bin/python", "-c"]
      command     = [file("${path.module}/create_databases.py")]
      environment = {}
      secrets = {
        ADMINISTRATOR                 = "${var.administrator_secret_arn}:username::"
        ADMINISTRATOR_PASSWORD        = "${var.administrator_secret_arn}:password::"
        REELHAUL_JOBS_DATABASE_URL    = var.secret_arns["jobs_database_url"]
        REELHAUL_STORAGE_DATABASE_URL = var.secret_arns["storage_database_url"]
      }
    }
    migrate = {
      entry_point = null
      command     = ["migrate", "jobs", "storage"]
      environment = {}
      secrets = {
        REELHAUL_JOBS_DATABASE_URL    = var.secret_arns["jobs_database_url"]
        REELHAUL_STORAGE_DATABASE_URL = var.secret_arns["storage_database_url"]
      }
    }
    # The key goes from the command into Secrets Manager and never into a log.
    first-key = {
      entry_point = ["/opt/venv/bin/python", "-c"]
      command     = [file("${path.module}/store_first_key.py")]
      environment = { SECRET = var.secret_arns["first_key"], AWS_REGION = data.aws_region.current.name }
      secrets     = { REELHAUL_JOBS_DATABASE_URL = var.secret_arns["jobs_database_url"] }
    }
  }
  runnable = var.images == null ? [] : keys(local.tasks)
}

resource "aws_ecs_task_definition" "task" {
  for_each = toset(local.runnable)

  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 256
  memory                   = 512
  execution_role_arn       = var.execution_role_arns[each.key]
  task_role_arn            = lookup(var.task_role_arns, each.key, null)

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }

  volume {
    name = "data"
  }

  container_definitions = jsonencode([merge(
    {
      name                   = each.key
      image                  = local.images.server
      essential              = true
      command                = local.tasks[each.key].command
      user                   = "10001:10001"
      readonlyRootFilesystem = true
      linuxParameters        = { capabilities = { drop = ["ALL"] }, initProcessEnabled = false }
      environment = [
        for name, value in merge({ HOME = "/data", TMPDIR = "/data" }, local.tasks[each.key].environment) : { name = name, value = value }
      ]
      secrets     = [for name, value in local.tasks[each.key].secrets : { name = name, valueFrom = value }]
      mountPoints = [{ sourceVolume = "data", containerPath = "/data", readOnly = false }]
      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = var.log_group_names[each.key]
          awslogs-region        = data.aws_region.current.name
          awslogs-stream-prefix = each.key
        }
      }
    },
    local.tasks[each.key].entry_point == null ? {} : { entryPoint = local.tasks[each.key].entry_point },
  )])
}
