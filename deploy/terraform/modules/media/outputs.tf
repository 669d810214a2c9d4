output "bucket" {
  value = aws_s3_bucket.this.id
}

output "bucket_arn" {
  value = aws_s3_bucket.this.arn
}

output "storage_url" {
  description = "REELHAUL_STORAGE_URL."
  value       = "s3://${aws_s3_bucket.this.id}?region=${aws_s3_bucket.this.region}"
}

output "link_url" {
  description = "REELHAUL_STORAGE_CLOUDFRONT_URL."
  value       = "https://${aws_cloudfront_distribution.this.domain_name}"
}

output "link_key_pair_id" {
  description = "REELHAUL_STORAGE_CLOUDFRONT_KEY_PAIR_ID."
  value       = aws_cloudfront_public_key.this.id
}
