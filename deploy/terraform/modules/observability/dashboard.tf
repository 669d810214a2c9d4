data "aws_region" "current" {}

locals {
  balancer = var.compute != "ecs" ? [] : [
    {
      title = "Requests, by status"
      stat  = "Sum"
      metrics = [for class in ["2XX", "4XX", "5XX"] : [
        "AWS/ApplicationELB", "HTTPCode_Target_${class}_Count", "LoadBalancer", var.load_balancer
      ]]
    },
    {
      title   = "Seconds until the response, 95th percentile"
      stat    = "p95"
      metrics = [["AWS/ApplicationELB", "TargetResponseTime", "LoadBalancer", var.load_balancer]]
    },
  ]
  suite_widgets = var.compute != "ecs" ? [] : [
    {
      title   = "Work items and slots of fetchers"
      stat    = "Maximum"
      metrics = [for metric in ["reelhaul_work_items", "reelhaul_worker_slots"] : ["Reelhaul", metric, "Environment", var.name]]
    },
    {
      title   = "Seconds that the oldest job has waited"
      stat    = "Maximum"
      metrics = [["Reelhaul", "reelhaul_queue_oldest_seconds", "Environment", var.name]]
    },
    {
      title   = "Running fetchers"
      stat    = "Average"
      metrics = [["ECS/ContainerInsights", "RunningTaskCount", "ClusterName", var.name, "ServiceName", "fetcher"]]
    },
  ]
  data_widgets = [
    {
      title   = "CPU of the database, percent"
      stat    = "Average"
      metrics = [["AWS/RDS", "CPUUtilization", "DBInstanceIdentifier", var.database_identifier]]
    },
    {
      title   = "Connections of the database"
      stat    = "Maximum"
      metrics = [["AWS/RDS", "DatabaseConnections", "DBInstanceIdentifier", var.database_identifier]]
    },
    {
      title   = "Free disk of the database, bytes"
      stat    = "Minimum"
      metrics = [["AWS/RDS", "FreeStorageSpace", "DBInstanceIdentifier", var.database_identifier]]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name
  dashboard_body = jsonencode({
    widgets = [
      for index, widget in concat(local.balancer, local.suite_widgets, local.data_widgets) : {
        type   = "metric"
        x      = index % 3 * 8
        y      = floor(index / 3) * 6
        width  = 8
        height = 6
        properties = {
          title   = widget.title
          stat    = widget.stat
          metrics = widget.metrics
          period  = 60
          region  = data.aws_region.current.name
        }
      }
    ]
  })
}

# Traces that end with a fault of the suite, for X-Ray's console; the collector sends them.
resource "aws_xray_group" "faults" {
  group_name        = "${var.name}-faults"
  filter_expression = "fault = true"

  insights_configuration {
    insights_enabled      = true
    notifications_enabled = false
  }
}
