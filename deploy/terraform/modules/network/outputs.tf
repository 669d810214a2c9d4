output "vpc_id" {
  value = aws_vpc.this.id
}

output "cidr" {
  value = aws_vpc.this.cidr_block
}

output "ranges" {
  description = "Address range by kind of subnet."
  value       = local.ranges
}

output "subnet_ids" {
  description = "Ids of subnets by kind: public, services, fetchers, data."
  value       = { for kind in local.kinds : kind => [for zone in var.zones : aws_subnet.this["${kind}-${zone}"].id] }
}

output "security_group_ids" {
  description = "Id of the security group of each member."
  value       = { for member, group in aws_security_group.this : member => group.id }
}

output "connections" {
  description = "Which member may connect to which, and to which ports."
  value       = local.connections
}
