output "cluster" {
  value = aws_ecs_cluster.this.name
}

output "file_system_arn" {
  value = aws_efs_file_system.broker.arn
}

output "load_balancer" {
  description = "The suffix of its ARN, by which metrics name it."
  value       = aws_lb.this.arn_suffix
}

output "target_groups" {
  description = "The suffix of the ARN of each target group."
  value       = { for service, group in aws_lb_target_group.this : service => group.arn_suffix }
}

output "tasks" {
  description = "Input of `aws ecs run-task --cli-input-json` for each task that runs once."
  value = {
    for name, task in aws_ecs_task_definition.task : name => jsonencode({
      cluster        = aws_ecs_cluster.this.name
      taskDefinition = task.family
      launchType     = "FARGATE"
      networkConfiguration = {
        awsvpcConfiguration = {
          subnets        = var.subnet_ids["services"]
          securityGroups = [var.security_group_ids["jobs"]]
          assignPublicIp = "DISABLED"
        }
      }
    })
  }
}
