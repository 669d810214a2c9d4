# HTTPS for everything: gRPC of jobs and of storage by path and content type, all else at the gateway.

resource "aws_lb" "this" {
  name                       = var.name
  load_balancer_type         = "application"
  subnets                    = var.subnet_ids["public"]
  security_groups            = [var.security_group_ids["alb"]]
  drop_invalid_header_fields = true
  enable_deletion_protection = var.deletion_protection
  # Streams are silent for at most half a minute.
  idle_timeout = 120

  access_logs {
    bucket  = var.access_log_bucket
    enabled = true
  }
}

locals {
  targets = {
    gateway = { port = 8080, version = "HTTP1", path = "/readyz", matcher = "200" }
    # The health of the empty name: the process lives, and takes connections.
    jobs    = { port = 50051, version = "GRPC", path = "/grpc.health.v1.Health/Check", matcher = "0" }
    storage = { port = 50053, version = "GRPC", path = "/grpc.health.v1.Health/Check", matcher = "0" }
  }
}

resource "aws_lb_target_group" "this" {
  for_each = local.targets

  name                 = "${var.name}-${each.key}"
  port                 = each.value.port
  protocol             = "HTTP"
  protocol_version     = each.value.version
  target_type          = "ip"
  vpc_id               = var.vpc_id
  deregistration_delay = 30

  health_check {
    path                = each.value.path
    matcher             = each.value.matcher
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.edge.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this["gateway"].arn
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.this.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"

    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_301"
    }
  }
}

# The suite's own credential never comes from outside: a token that a fetcher has lost is of no use in the internet.
resource "aws_lb_listener_rule" "suite_token" {
  listener_arn = aws_lb_listener.https.arn
  priority     = 1

  condition {
    http_header {
      http_header_name = "x-reelhaul-suite-token"
      values           = ["*"]
    }
  }

  action {
    type = "fixed-response"

    fixed_response {
      content_type = "text/plain"
      message_body = "The suite token is not for clients."
      status_code  = "403"
    }
  }
}

# The packages that clients call. reelhaul.work, which the services speak among themselves, is not one of them. A
# condition has three values at most.
resource "aws_lb_listener_rule" "grpc" {
  for_each = {
    storage = { priority = 10, target = "storage", paths = ["/reelhaul.storage.*"] }
    jobs    = { priority = 20, target = "jobs", paths = ["/reelhaul.jobs.*", "/reelhaul.downloads.*", "/reelhaul.admin.*"] }
    system  = { priority = 30, target = "jobs", paths = ["/reelhaul.system.*"] }
  }

  listener_arn = aws_lb_listener.https.arn
  priority     = each.value.priority

  condition {
    http_header {
      http_header_name = "content-type"
      values           = ["application/grpc*"]
    }
  }

  condition {
    path_pattern {
      values = each.value.paths
    }
  }

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this[each.value.target].arn
  }
}

resource "aws_wafv2_web_acl_association" "this" {
  resource_arn = aws_lb.this.arn
  web_acl_arn  = var.edge.web_acl_arn
}

resource "aws_route53_record" "this" {
  zone_id = var.edge.zone_id
  name    = var.edge.domain
  type    = "A"

  alias {
    name                   = aws_lb.this.dns_name
    zone_id                = aws_lb.this.zone_id
    evaluate_target_health = true
  }
}
