# A second layer below the security groups, which only allow: what a fetcher must never reach is denied here, whatever
# its security group says one day. Access lists are stateless: responses need rules of their own.

locals {
  private_ranges = ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"]
}

resource "aws_network_acl" "fetchers" {
  vpc_id     = aws_vpc.this.id
  subnet_ids = [for zone in var.zones : aws_subnet.this["fetchers-${zone}"].id]
  tags       = { Name = "${var.name}-fetchers" }

  # gRPC of the services and the broker, the collector; and responses to calls of gateway and jobs.
  egress {
    rule_no    = 100
    action     = "allow"
    protocol   = "tcp"
    cidr_block = local.ranges["services"]
    from_port  = 1024
    to_port    = 65535
  }

  # Endpoints of AWS's services.
  egress {
    rule_no    = 110
    action     = "allow"
    protocol   = "tcp"
    cidr_block = local.ranges["services"]
    from_port  = 443
    to_port    = 443
  }

  # DNS of a Kubernetes cluster. The VPC's own resolver is not subject to access lists.
  dynamic "egress" {
    for_each = ["tcp", "udp"]
    content {
      rule_no    = 120 + egress.key * 10
      action     = "allow"
      protocol   = egress.value
      cidr_block = local.ranges["services"]
      from_port  = 53
      to_port    = 53
    }
  }

  dynamic "egress" {
    for_each = concat([var.cidr], local.private_ranges)
    content {
      rule_no    = 200 + egress.key * 10
      action     = "deny"
      protocol   = "-1"
      cidr_block = egress.value
      from_port  = 0
      to_port    = 0
    }
  }

  dynamic "egress" {
    for_each = local.outbound.fetcher
    content {
      rule_no    = 300 + egress.key * 10
      action     = "allow"
      protocol   = "tcp"
      cidr_block = "0.0.0.0/0"
      from_port  = egress.value
      to_port    = egress.value
    }
  }

  # Calls of gateway and jobs; responses of the services.
  ingress {
    rule_no    = 100
    action     = "allow"
    protocol   = "tcp"
    cidr_block = local.ranges["services"]
    from_port  = 1024
    to_port    = 65535
  }

  ingress {
    rule_no    = 110
    action     = "allow"
    protocol   = "udp"
    cidr_block = local.ranges["services"]
    from_port  = 1024
    to_port    = 65535
  }

  # Nothing else within the VPC, nor from networks that are connected to it one day.
  dynamic "ingress" {
    for_each = concat([var.cidr], local.private_ranges)
    content {
      rule_no    = 200 + ingress.key * 10
      action     = "deny"
      protocol   = "-1"
      cidr_block = ingress.value
      from_port  = 0
      to_port    = 0
    }
  }

  # Responses of endpoints' and sites' servers.
  ingress {
    rule_no    = 300
    action     = "allow"
    protocol   = "tcp"
    cidr_block = "0.0.0.0/0"
    from_port  = 1024
    to_port    = 65535
  }
}

resource "aws_network_acl" "data" {
  vpc_id     = aws_vpc.this.id
  subnet_ids = [for zone in var.zones : aws_subnet.this["data-${zone}"].id]
  tags       = { Name = "${var.name}-data" }

  dynamic "ingress" {
    for_each = [5432, 6379, 2049]
    content {
      rule_no    = 100 + ingress.key * 10
      action     = "allow"
      protocol   = "tcp"
      cidr_block = local.ranges["services"]
      from_port  = ingress.value
      to_port    = ingress.value
    }
  }

  # Replicas of the cache among themselves.
  ingress {
    rule_no    = 200
    action     = "allow"
    protocol   = "tcp"
    cidr_block = local.ranges["data"]
    from_port  = 1024
    to_port    = 65535
  }

  dynamic "egress" {
    for_each = [local.ranges["services"], local.ranges["data"]]
    content {
      rule_no    = 100 + egress.key * 10
      action     = "allow"
      protocol   = "tcp"
      cidr_block = egress.value
      from_port  = 1024
      to_port    = 65535
    }
  }
}
