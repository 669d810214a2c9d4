# One role for each service. With ecs a service has an execution role, which starts its tasks and is out of reach of
# their processes, and a task role only if its processes call AWS: fetchers, gateway and jobs have none. With eks a
# pod gets a role by its ServiceAccount (pod identity).

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account = data.aws_caller_identity.current.account_id
  region  = data.aws_region.current.name
  prefix  = "arn:${data.aws_partition.current.partition}"
  ecs     = var.compute == "ecs"

  shared = ["suite_token", "metrics_token", "broker"]
  # The secrets that tasks of a service are given, and no others.
  secrets = {
    gateway   = local.shared
    jobs      = concat(local.shared, ["jobs_database_url", "jobs_seal_keys"])
    fetcher   = local.shared
    storage   = concat(local.shared, ["storage_database_url", "storage_seal_keys", "link_key"])
    broker    = ["broker"]
    collector = ["metrics_token"]
    databases = ["jobs_database_url", "storage_database_url"]
    migrate   = ["jobs_database_url", "storage_database_url"]
    first-key = ["jobs_database_url"]
  }
  task_policies = merge(
    {
      storage   = data.aws_iam_policy_document.storage.json
      collector = data.aws_iam_policy_document.collector.json
    },
    local.ecs ? {
      broker    = data.aws_iam_policy_document.broker[0].json
      first-key = data.aws_iam_policy_document.first_key.json
    } : { external-secrets = data.aws_iam_policy_document.external_secrets.json },
  )
}

# --- execution roles

data "aws_iam_policy_document" "ecs_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "execution" {
  for_each = { for service, secrets in local.secrets : service => secrets if local.ecs }

  name               = "${var.name}-${each.key}-execution"
  assume_role_policy = data.aws_iam_policy_document.ecs_trust.json
}

data "aws_iam_policy_document" "execution" {
  for_each = { for service, secrets in local.secrets : service => secrets if local.ecs }

  statement {
    sid = "Secrets"
    actions = [
      "secretsmanager:GetSecretValue",
    ]
    resources = concat(
      [for secret in each.value : var.secret_arns[secret]],
      each.key == "databases" ? [var.administrator_secret_arn] : [],
    )
  }

  statement {
    sid       = "DecryptSecrets"
    actions   = ["kms:Decrypt"]
    resources = [var.kms_key_arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${local.region}.amazonaws.com"]
    }
  }

  statement {
    sid       = "Images"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = ["${local.prefix}:ecr:${local.region}:${local.account}:repository/${var.repository_prefix}/*"]
  }

  # This action knows no resource.
  statement {
    sid       = "Registry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "Logs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${var.log_group_arns[each.key]}:*"]
  }
}

resource "aws_iam_role_policy" "execution" {
  for_each = data.aws_iam_policy_document.execution

  name   = "start"
  role   = aws_iam_role.execution[each.key].id
  policy = each.value.json
}

# --- roles of processes

data "aws_iam_policy_document" "pod_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "task" {
  for_each = local.task_policies

  name               = "${var.name}-${each.key}"
  assume_role_policy = local.ecs ? data.aws_iam_policy_document.ecs_trust.json : data.aws_iam_policy_document.pod_trust.json
}

resource "aws_iam_role_policy" "task" {
  for_each = local.task_policies

  name   = each.key
  role   = aws_iam_role.task[each.key].id
  policy = each.value
}

# What docs/storage.md says that the credentials of storage need.
data "aws_iam_policy_document" "storage" {
  statement {
    sid       = "Bucket"
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [var.bucket_arn]
  }

  statement {
    sid       = "Objects"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${var.bucket_arn}/*"]
  }

  statement {
    sid       = "Encryption"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.kms_key_arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${local.region}.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "collector" {
  # X-Ray knows no resources of traces.
  statement {
    sid       = "Traces"
    actions   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
    resources = ["*"]
  }

  statement {
    sid       = "Metrics"
    actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    resources = ["${var.log_group_arns["metrics"]}:*"]
  }
}

data "aws_iam_policy_document" "broker" {
  count = local.ecs ? 1 : 0

  statement {
    actions   = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
    resources = [var.file_system_arn]
  }
}

data "aws_iam_policy_document" "first_key" {
  statement {
    actions   = ["secretsmanager:PutSecretValue"]
    resources = [var.secret_arns["first_key"]]
  }

  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.kms_key_arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${local.region}.amazonaws.com"]
    }
  }
}

# The operator External Secrets copies them into Secrets of the cluster, each of which one service mounts.
data "aws_iam_policy_document" "external_secrets" {
  statement {
    actions   = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
    resources = concat(values(var.secret_arns), [var.administrator_secret_arn])
  }

  statement {
    actions   = ["kms:Decrypt"]
    resources = [var.kms_key_arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${local.region}.amazonaws.com"]
    }
  }
}
