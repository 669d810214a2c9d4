# The roles of the workflow `deploy` (docs/releasing.md), one for each environment: GitHub proves which repository and
# environment a run is of, and no key is stored. A run of staging, which nobody has approved, cannot take the role of
# production. A role may find the cluster of its environment; what it may do there, the cluster's administrators say.

locals {
  deliveries = toset(var.repository == "" ? [] : ["staging", "production"])
}

resource "aws_iam_openid_connect_provider" "github" {
  count = var.repository == "" ? 0 : 1

  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "delivery" {
  for_each = local.deliveries

  name               = "reelhaul-delivery-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.delivery_trust[each.key].json
}

data "aws_iam_policy_document" "delivery_trust" {
  for_each = local.deliveries

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.github[0].arn]
    }

    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:sub"
      values   = ["repo:${var.repository}:environment:${each.key}"]
    }
  }
}

resource "aws_iam_role_policy" "delivery" {
  for_each = local.deliveries

  name   = "deliver"
  role   = aws_iam_role.delivery[each.key].id
  policy = data.aws_iam_policy_document.delivery[each.key].json
}

data "aws_iam_policy_document" "delivery" {
  for_each = local.deliveries

  statement {
    actions   = ["eks:DescribeCluster"]
    resources = ["arn:aws:eks:${var.region}:${data.aws_caller_identity.current.account_id}:cluster/reelhaul-${each.key}"]
  }
}
