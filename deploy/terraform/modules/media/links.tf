# Signed links (docs/storage.md, Links): CloudFront serves an object to whoever has a URL that storage has signed.

resource "aws_cloudfront_public_key" "this" {
  name        = "${var.name}-links"
  encoded_key = var.link_public_key

  lifecycle {
    create_before_destroy = true
    # A key is replaced by a further one in the group (docs/aws.md), never changed.
    ignore_changes = [encoded_key]
  }
}

resource "aws_cloudfront_key_group" "this" {
  name  = "${var.name}-links"
  items = [aws_cloudfront_public_key.this.id]
}

resource "aws_cloudfront_origin_access_control" "this" {
  name                              = "${var.name}-media"
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

# These parameters of a link give a download its name and its type; S3 has to see them.
resource "aws_cloudfront_cache_policy" "this" {
  name        = "${var.name}-media"
  min_ttl     = 0
  default_ttl = 3600
  max_ttl     = 86400

  parameters_in_cache_key_and_forwarded_to_origin {
    cookies_config {
      cookie_behavior = "none"
    }

    headers_config {
      header_behavior = "none"
    }

    query_strings_config {
      query_string_behavior = "whitelist"

      query_strings {
        items = ["response-content-disposition", "response-content-type"]
      }
    }
  }
}

resource "aws_cloudfront_distribution" "this" {
  comment         = "Signed links of ${var.name}"
  enabled         = true
  is_ipv6_enabled = true
  http_version    = "http2and3"
  price_class     = "PriceClass_100"

  origin {
    origin_id                = "media"
    domain_name              = aws_s3_bucket.this.bucket_regional_domain_name
    origin_access_control_id = aws_cloudfront_origin_access_control.this.id
  }

  default_cache_behavior {
    target_origin_id       = "media"
    viewer_protocol_policy = "https-only"
    allowed_methods        = ["GET", "HEAD"]
    cached_methods         = ["GET", "HEAD"]
    cache_policy_id        = aws_cloudfront_cache_policy.this.id
    trusted_key_groups     = [aws_cloudfront_key_group.this.id]
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = true
  }
}
