# Alarms on what users notice, and on what becomes full. Each names the runbook that says what to do; the alerts of
# deploy/observability say more, where a Prometheus runs.

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = var.kms_key_arn
}

resource "aws_sns_topic_subscription" "email" {
  count = var.alarm_email == "" ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

locals {
  suite    = { Environment = var.name }
  database = { DBInstanceIdentifier = var.database_identifier }
  # The primary and its replicas: {group}-001, ….
  cache = { CacheClusterId = "${var.cache_id}-001" }

  alarms = merge(
    {
      "database-disk" = {
        namespace  = "AWS/RDS", metric = "FreeStorageSpace", dimensions = local.database, statistic = "Minimum"
        comparison = "LessThanThreshold", threshold = 5e9, minutes = 5, periods = 3, missing = "missing"
        runbook    = "ReelhaulDiskFull", text = "The database has less than 5 GB of disk left."
      }
      "database-cpu" = {
        namespace  = "AWS/RDS", metric = "CPUUtilization", dimensions = local.database, statistic = "Average"
        comparison = "GreaterThanThreshold", threshold = 85, minutes = 5, periods = 6, missing = "missing"
        runbook    = "ReelhaulDatabasePoolExhausted", text = "The database has used 85 % of its CPU for half an hour."
      }
      "database-memory" = {
        namespace  = "AWS/RDS", metric = "FreeableMemory", dimensions = local.database, statistic = "Minimum"
        comparison = "LessThanThreshold", threshold = 1.5e8, minutes = 5, periods = 6, missing = "missing"
        runbook    = "ReelhaulDatabasePoolExhausted", text = "The database has less than 150 MB of memory left."
      }
      "cache-cpu" = {
        namespace  = "AWS/ElastiCache", metric = "EngineCPUUtilization", dimensions = local.cache, statistic = "Average"
        comparison = "GreaterThanThreshold", threshold = 85, minutes = 5, periods = 6, missing = "missing"
        runbook    = "ReelhaulRateLimited", text = "The cache of rate limits has used 85 % of its core for half an hour."
      }
    },
    var.compute == "ecs" ? {
      "queue-age" = {
        namespace  = "Reelhaul", metric = "reelhaul_queue_oldest_seconds", dimensions = local.suite, statistic = "Maximum"
        comparison = "GreaterThanThreshold", threshold = 900, minutes = 5, periods = 2, missing = "notBreaching"
        runbook    = "ReelhaulQueueAge", text = "A job has waited for a worker for fifteen minutes."
      }
      # The collector, jobs or its database do not answer: fetchers are not scaled either.
      "metrics-missing" = {
        namespace  = "Reelhaul", metric = "reelhaul_worker_slots", dimensions = local.suite, statistic = "SampleCount"
        comparison = "LessThanThreshold", threshold = 1, minutes = 5, periods = 2, missing = "breaching"
        runbook    = "ReelhaulMetricsMissing", text = "jobs has reported no metrics for ten minutes; fetchers are not scaled."
      }
      "no-worker" = {
        namespace  = "Reelhaul", metric = "reelhaul_worker_slots", dimensions = local.suite, statistic = "Maximum"
        comparison = "LessThanThreshold", threshold = 1, minutes = 1, periods = 5, missing = "notBreaching"
        runbook    = "ReelhaulNoLiveWorker", text = "No fetcher takes work."
      }
    } : {},
    var.compute != "ecs" ? {} : {
      "api-errors" = {
        namespace  = "AWS/ApplicationELB", metric = "HTTPCode_Target_5XX_Count", dimensions = { LoadBalancer = var.load_balancer }, statistic = "Sum"
        comparison = "GreaterThanThreshold", threshold = 20, minutes = 5, periods = 2, missing = "notBreaching"
        runbook    = "ReelhaulApiErrorBudgetBurn", text = "The services answered 20 requests in five minutes with 5xx."
      }
      "api-unreachable" = {
        namespace  = "AWS/ApplicationELB", metric = "HTTPCode_ELB_5XX_Count", dimensions = { LoadBalancer = var.load_balancer }, statistic = "Sum"
        comparison = "GreaterThanThreshold", threshold = 20, minutes = 5, periods = 2, missing = "notBreaching"
        runbook    = "ReelhaulServiceAbsent", text = "The load balancer found no service for 20 requests in five minutes."
      }
    },
    {
      for service, group in var.target_groups : "unhealthy-${service}" => {
        namespace  = "AWS/ApplicationELB", metric = "UnHealthyHostCount", dimensions = { LoadBalancer = var.load_balancer, TargetGroup = group }, statistic = "Maximum"
        comparison = "GreaterThanThreshold", threshold = 0, minutes = 1, periods = 10, missing = "notBreaching"
        runbook    = "ReelhaulNotReady", text = "A replica of ${service} has not been ready for ten minutes."
      }
    },
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.text} Runbook: docs/runbooks/${each.value.runbook}.md"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = each.value.minutes * 60
  evaluation_periods  = each.value.periods
  treat_missing_data  = each.value.missing
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}
