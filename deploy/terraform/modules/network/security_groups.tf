# Who may open a connection to whom. Security groups admit nothing that is not here, in either direction.

locals {
  members = {
    alb       = "the load balancer"
    gateway   = "gateway"
    jobs      = "jobs"
    fetcher   = "fetchers"
    storage   = "storage"
    broker    = "NATS"
    collector = "the collector of traces and metrics"
    database  = "PostgreSQL"
    cache     = "Valkey"
    files     = "the file system of the broker"
    endpoints = "private endpoints of AWS's services"
  }

  # from => { to = ports }, between members.
  connections = {
    alb       = { gateway = [8080], jobs = [50051], storage = [50053] }
    gateway   = { jobs = [50051], fetcher = [50052], storage = [50053], broker = [4222], cache = [6379], collector = [4317], endpoints = [443] }
    jobs      = { jobs = [50051], fetcher = [50052], storage = [50053], broker = [4222], database = [5432], cache = [6379], collector = [4317], endpoints = [443] }
    fetcher   = { jobs = [50051], storage = [50053], broker = [4222], collector = [4317], endpoints = [443] }
    storage   = { jobs = [50051], broker = [4222], database = [5432], cache = [6379], collector = [4317], endpoints = [443] }
    broker    = { files = [2049], endpoints = [443] }
    collector = { jobs = [9181], endpoints = [443] }
  }

  # Ports of the internet. jobs calls webhooks and asks identity providers, storage writes to destinations.
  outbound = { jobs = [443], storage = [443], fetcher = [80, 443] }

  # Layers of images are in S3, and so are artifacts.
  s3_clients = ["gateway", "jobs", "fetcher", "storage", "broker", "collector"]

  pairs = merge([
    for source, targets in local.connections : merge([
      for target, ports in targets : {
        for port in ports : "${source}-${target}-${port}" => { source = source, target = target, port = port }
      }
    ]...)
  ]...)
  exits = merge([
    for member, ports in local.outbound : { for port in ports : "${member}-${port}" => { member = member, port = port } }
  ]...)
}

resource "aws_security_group" "this" {
  for_each = local.members

  name        = "${var.name}-${each.key}"
  description = "Reelhaul: ${each.value}"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-${each.key}" }
}

resource "aws_vpc_security_group_egress_rule" "member" {
  for_each = local.pairs

  security_group_id            = aws_security_group.this[each.value.source].id
  referenced_security_group_id = aws_security_group.this[each.value.target].id
  description                  = "to ${each.value.target}"
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

resource "aws_vpc_security_group_ingress_rule" "member" {
  for_each = local.pairs

  security_group_id            = aws_security_group.this[each.value.target].id
  referenced_security_group_id = aws_security_group.this[each.value.source].id
  description                  = "from ${each.value.source}"
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

resource "aws_vpc_security_group_egress_rule" "internet" {
  for_each = local.exits

  security_group_id = aws_security_group.this[each.value.member].id
  cidr_ipv4         = "0.0.0.0/0"
  description       = "to the internet"
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  for_each = toset(local.s3_clients)

  security_group_id = aws_security_group.this[each.key].id
  prefix_list_id    = aws_vpc_endpoint.s3.prefix_list_id
  description       = "to S3"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

# The only way in: HTTPS, and HTTP, which the load balancer redirects to it.
resource "aws_vpc_security_group_ingress_rule" "internet" {
  for_each = { http = 80, https = 443 }

  security_group_id = aws_security_group.this["alb"].id
  cidr_ipv4         = "0.0.0.0/0"
  description       = each.key
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}
