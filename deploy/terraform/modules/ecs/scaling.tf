# gateway, jobs and storage by their CPU; fetchers by the queue.

resource "aws_appautoscaling_target" "this" {
  for_each = toset([for service in ["gateway", "jobs", "storage", "fetcher"] : service if contains(local.running, service)])

  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.this[each.key].name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = local.sizes[each.key].min
  max_capacity       = local.sizes[each.key].max
}

resource "aws_appautoscaling_policy" "cpu" {
  for_each = toset([for service in ["gateway", "jobs", "storage"] : service if contains(local.running, service)])

  name               = "cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = "ecs"
  resource_id        = aws_appautoscaling_target.this[each.key].resource_id
  scalable_dimension = aws_appautoscaling_target.this[each.key].scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_in_cooldown  = 300
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

# Lag per slot: items in the broker, waiting or held by a worker, divided by the slots of live fetchers. jobs keeps
# that lag at one and a half times the slots at most (it holds the rest of the queue back in its rows), so that
# fetchers grow by half in each step while jobs wait that may run, and not for those that wait for a limit of their
# site. Busy slots hold their items: fetchers that all work are 1, and are neither added nor removed.
resource "aws_appautoscaling_policy" "queue" {
  count = contains(local.running, "fetcher") ? 1 : 0

  name               = "queue"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = "ecs"
  resource_id        = aws_appautoscaling_target.this["fetcher"].resource_id
  scalable_dimension = aws_appautoscaling_target.this["fetcher"].scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = 1
    scale_in_cooldown  = 600
    scale_out_cooldown = 120

    customized_metric_specification {
      metrics {
        id          = "items"
        return_data = false

        metric_stat {
          stat = "Maximum"

          metric {
            namespace   = "Reelhaul"
            metric_name = "reelhaul_work_items"

            dimensions {
              name  = "Environment"
              value = var.name
            }
          }
        }
      }

      metrics {
        id          = "slots"
        return_data = false

        metric_stat {
          stat = "Maximum"

          metric {
            namespace   = "Reelhaul"
            metric_name = "reelhaul_worker_slots"

            dimensions {
              name  = "Environment"
              value = var.name
            }
          }
        }
      }

      metrics {
        id          = "lag"
        label       = "Work items per slot"
        expression  = "items / slots"
        return_data = true
      }
    }
  }
}
