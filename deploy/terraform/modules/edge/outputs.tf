output "certificate_arn" {
  value = aws_acm_certificate_validation.this.certificate_arn
}

output "web_acl_arn" {
  value = aws_wafv2_web_acl.this.arn
}

output "domain" {
  value = var.domain
}

output "zone_id" {
  value = var.zone_id
}
