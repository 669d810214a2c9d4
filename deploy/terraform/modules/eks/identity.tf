# Roles of pods, by their ServiceAccount. No other pod has one: the metadata service of nodes is out of their reach.

locals {
  service_accounts = {
    storage          = { namespace = var.kubernetes_namespace, name = "storage" }
    collector        = { namespace = "monitoring", name = "collector" }
    external-secrets = { namespace = "external-secrets", name = "external-secrets" }
  }
}

resource "aws_eks_pod_identity_association" "this" {
  for_each = local.service_accounts

  cluster_name    = aws_eks_cluster.this.name
  namespace       = each.value.namespace
  service_account = each.value.name
  role_arn        = var.task_role_arns[each.key]
}

resource "aws_iam_role" "disks" {
  name               = "${var.name}-disks"
  assume_role_policy = data.aws_iam_policy_document.disks_trust.json
}

data "aws_iam_policy_document" "disks_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_iam_role_policy_attachment" "disks" {
  role       = aws_iam_role.disks.name
  policy_arn = "${local.policy_prefix}/service-role/AmazonEBSCSIDriverPolicy"
}
