mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
}

variables {
  name               = "test"
  cidr               = "10.20.0.0/16"
  zones              = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  nat_gateways       = 3
  flow_log_group_arn = "arn:aws:logs:eu-central-1:123456789012:log-group:network"
  flow_log_role_arn  = "arn:aws:iam::123456789012:role/flow-logs"
}

run "three_zones" {
  command = plan

  assert {
    condition     = length(aws_subnet.this) == 12
    error_message = "Each zone has a subnet of each of the four kinds."
  }

  assert {
    condition     = length(distinct([for subnet in aws_subnet.this : subnet.cidr_block])) == 12
    error_message = "No two subnets share addresses."
  }

  assert {
    condition     = !anytrue([for subnet in aws_subnet.this : subnet.map_public_ip_on_launch])
    error_message = "Nothing gets a public address by itself."
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "Each zone has its own way out."
  }

  assert {
    condition     = !anytrue([for key in keys(aws_route.private) : startswith(key, "data-")])
    error_message = "The database has no route out."
  }

  assert {
    condition     = toset([for rule in aws_vpc_security_group_ingress_rule.internet : rule.from_port]) == toset([80, 443])
    error_message = "The internet reaches HTTP and HTTPS."
  }

  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.member : rule.cidr_ipv4 == null])
    error_message = "Members admit members, by their security group."
  }
  assert {
    condition     = length(setintersection(keys(local.connections.fetcher), ["database", "cache", "files", "gateway", "alb"])) == 0
    error_message = "Fetchers connect to jobs, storage, the broker and the collector."
  }

  assert {
    condition     = toset([for source, targets in local.connections : source if contains(keys(targets), "database")]) == toset(["jobs", "storage"])
    error_message = "jobs and storage alone connect to the database."
  }

  assert {
    condition = alltrue([
      for range in ["10.20.0.0/16", "10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"] :
      anytrue([for rule in aws_network_acl.fetchers.egress : rule.action == "deny" && rule.cidr_block == range])
    ])
    error_message = "The access list denies private addresses to fetchers."
  }

  assert {
    condition = (
      max([for rule in aws_network_acl.fetchers.egress : rule.rule_no if rule.action == "deny"]...) <
      min([for rule in aws_network_acl.fetchers.egress : rule.rule_no if rule.cidr_block == "0.0.0.0/0"]...)
    )
    error_message = "Denials come before the rule that lets fetchers out."
  }

  assert {
    condition     = !anytrue([for rule in aws_network_acl.data.ingress : rule.cidr_block == local.ranges["fetchers"]])
    error_message = "The subnets of the database admit no fetcher."
  }
}

run "one_nat_gateway_serves_all_zones" {
  command = plan

  variables {
    nat_gateways = 1
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.private) == 6
    error_message = "Services and fetchers of all zones use the one NAT gateway."
  }
}

run "one_zone_is_refused" {
  command = plan

  variables {
    zones        = ["eu-central-1a"]
    nat_gateways = 1
  }

  expect_failures = [var.zones]
}

run "two_nat_gateways_for_three_zones_are_refused" {
  command = plan

  variables {
    nat_gateways = 2
  }

  expect_failures = [var.nat_gateways]
}
