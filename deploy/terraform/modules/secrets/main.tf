# Secrets Manager holds the secrets, and neither the state nor a plan of Terraform does: values are ephemeral, and are
# written (write-only arguments) once for each version.

locals {
  generated = ["suite_token", "metrics_token", "broker", "jobs_database_url", "storage_database_url", "jobs_seal_keys", "storage_seal_keys"]
  # link_key: the private key of CloudFront's signed URLs; first_key: the first API key, which a task writes.
  manual = ["link_key", "first_key"]

  # A password of 32 letters and digits, 190 bits, as a key of 32 bytes in the URL-safe alphabet of base64.
  seal_keys = {
    for name in ["jobs_seal_keys", "storage_seal_keys"] : name => replace(replace(
      base64encode(ephemeral.aws_secretsmanager_random_password.this[name].random_password), "+", "-"), "/", "_"
    )
  }

  values = merge(local.seal_keys, {
    suite_token   = ephemeral.aws_secretsmanager_random_password.this["suite_token"].random_password
    metrics_token = ephemeral.aws_secretsmanager_random_password.this["metrics_token"].random_password
    broker = jsonencode({
      token = ephemeral.aws_secretsmanager_random_password.this["broker"].random_password
      url   = "nats://${ephemeral.aws_secretsmanager_random_password.this["broker"].random_password}@${var.broker_address}"
    })
    jobs_database_url    = "postgresql://jobs:${ephemeral.aws_secretsmanager_random_password.this["jobs_database_url"].random_password}@${var.database_endpoint}/jobs?sslmode=require"
    storage_database_url = "postgresql://storage:${ephemeral.aws_secretsmanager_random_password.this["storage_database_url"].random_password}@${var.database_endpoint}/storage?sslmode=require"
  })
}

ephemeral "aws_secretsmanager_random_password" "this" {
  for_each = toset(local.generated)

  password_length     = 32
  exclude_punctuation = true
}

resource "aws_secretsmanager_secret" "this" {
  for_each = toset(concat(local.generated, local.manual))

  name                    = "${var.name}/${each.key}"
  kms_key_id              = aws_kms_key.this.arn
  recovery_window_in_days = var.recovery_days
}

resource "aws_secretsmanager_secret_version" "this" {
  for_each = toset(local.generated)

  secret_id                = aws_secretsmanager_secret.this[each.key].id
  secret_string_wo         = local.values[each.key]
  secret_string_wo_version = lookup(var.versions, each.key, 1)
}
