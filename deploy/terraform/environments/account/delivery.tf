# The role of the workflow `deploy` (docs/releasing.md): GitHub proves which repository and environment a run is of,
# and no key is stored. It may push images and find a cluster; what it may do in one, its administrators say.

resource "aws_iam_openid_connect_provider" "github" {
  count = var.repository == "" ? 0 : 1

  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "delivery" {
  count = var.repository == "" ? 0 : 1

  name               = "reelhaul-delivery"
  assume_role_policy = data.aws_iam_policy_document.delivery_trust[0].json
}

data "aws_iam_policy_document" "delivery_trust" {
  count = var.repository == "" ? 0 : 1

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
      values   = [for environment in ["staging", "production"] : "repo:${var.repository}:environment:${environment}"]
    }
  }
}

resource "aws_iam_role_policy" "delivery" {
  count = var.repository == "" ? 0 : 1

  name   = "deliver"
  role   = aws_iam_role.delivery[0].id
  policy = data.aws_iam_policy_document.delivery.json
}

data "aws_iam_policy_document" "delivery" {
  statement {
    sid = "Images"
    actions = [
      "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer",
      "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
    ]
    resources = values(module.registry.repository_arns)
  }

  # This action knows no resource.
  statement {
    sid       = "Registry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "Clusters"
    actions   = ["eks:DescribeCluster"]
    resources = ["arn:aws:eks:${var.region}:${data.aws_caller_identity.current.account_id}:cluster/reelhaul-*"]
  }
}
