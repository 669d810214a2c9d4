# Four kinds of subnets in each zone, each kind a quarter of the range:
#
#   public    the load balancer and the NAT gateways
#   services  gateway, jobs, storage, the broker, the collector
#   fetchers  fetchers alone: they run what strangers' sites send
#   data      database, cache, file system; no route out

data "aws_region" "current" {}

locals {
  kinds  = ["public", "services", "fetchers", "data"]
  ranges = { for index, kind in local.kinds : kind => cidrsubnet(var.cidr, 2, index) }
  subnets = merge([
    for kind in local.kinds : {
      for index, zone in var.zones : "${kind}-${zone}" => {
        kind  = kind
        zone  = zone
        range = cidrsubnet(local.ranges[kind], 2, index)
      }
    }
  ]...)
  # The NAT gateway of a zone: its own, or the only one.
  nat_zones = slice(var.zones, 0, var.nat_gateways)
  nat_of    = { for index, zone in var.zones : zone => local.nat_zones[min(index, var.nat_gateways - 1)] }
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# Nothing uses the default group: it admits nothing.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_flow_log" "this" {
  vpc_id                   = aws_vpc.this.id
  traffic_type             = "ALL"
  log_destination          = var.flow_log_group_arn
  iam_role_arn             = var.flow_log_role_arn
  max_aggregation_interval = 600
}

resource "aws_subnet" "this" {
  for_each = local.subnets

  vpc_id            = aws_vpc.this.id
  availability_zone = each.value.zone
  cidr_block        = each.value.range
  tags = merge(
    { Name = "${var.name}-${each.key}" },
    # The AWS Load Balancer Controller finds subnets by this tag.
    each.value.kind == "public" ? { "kubernetes.io/role/elb" = "1" } : {},
  )
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = var.name }
}

resource "aws_eip" "nat" {
  for_each = toset(local.nat_zones)

  domain = "vpc"
  tags   = { Name = "${var.name}-nat-${each.key}" }
}

resource "aws_nat_gateway" "this" {
  for_each = toset(local.nat_zones)

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.this["public-${each.key}"].id
  tags          = { Name = "${var.name}-${each.key}" }

  depends_on = [aws_internet_gateway.this]
}

# --- routes: one table for public and for data, one in each zone for services and for fetchers

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-public" }
}

resource "aws_route" "public" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

resource "aws_route_table" "data" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-data" }
}

locals {
  private = { for key, subnet in local.subnets : key => subnet if contains(["services", "fetchers"], subnet.kind) }
}

resource "aws_route_table" "private" {
  for_each = local.private

  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-${each.key}" }
}

resource "aws_route" "private" {
  for_each = local.private

  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[local.nat_of[each.value.zone]].id
}

resource "aws_route_table_association" "this" {
  for_each = local.subnets

  subnet_id = aws_subnet.this[each.key].id
  route_table_id = (
    each.value.kind == "public" ? aws_route_table.public.id :
    each.value.kind == "data" ? aws_route_table.data.id :
    aws_route_table.private[each.key].id
  )
}
