# Two groups of nodes: fetchers, which run what strangers' sites send, have nodes, subnets and a security group of
# their own, and no path to the database.

locals {
  node_security_groups = {
    services = concat([for member in ["gateway", "jobs", "storage"] : var.security_group_ids[member]], [aws_security_group.nodes.id, aws_security_group.services.id])
    fetchers = [var.security_group_ids["fetcher"], aws_security_group.nodes.id]
  }
}

resource "aws_launch_template" "this" {
  for_each = var.nodes

  name                   = "${var.name}-${each.key}"
  vpc_security_group_ids = local.node_security_groups[each.key]
  update_default_version = true

  # With one hop the metadata service, and the role of the node, are out of reach of pods.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_size           = each.value.disk
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-${each.key}" }
  }
}

resource "aws_eks_node_group" "this" {
  for_each = var.nodes

  cluster_name    = aws_eks_cluster.this.name
  node_group_name = each.key
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = var.subnet_ids[each.key]
  instance_types  = each.value.instance_types
  ami_type        = "AL2023_x86_64_STANDARD"
  labels          = { "reelhaul.dev/nodes" = each.key }

  launch_template {
    id      = aws_launch_template.this[each.key].id
    version = aws_launch_template.this[each.key].latest_version
  }

  scaling_config {
    min_size     = each.value.min
    max_size     = each.value.max
    desired_size = each.value.min
  }

  update_config {
    max_unavailable = 1
  }

  dynamic "taint" {
    for_each = each.key == "fetchers" ? ["fetchers"] : []
    content {
      key    = "reelhaul.dev/nodes"
      value  = taint.value
      effect = "NO_SCHEDULE"
    }
  }

  # The autoscaler of the cluster sets it.
  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]
  }

  depends_on = [aws_iam_role_policy_attachment.nodes]
}

resource "aws_iam_role" "nodes" {
  name               = "${var.name}-nodes"
  assume_role_policy = data.aws_iam_policy_document.nodes_trust.json
}

data "aws_iam_policy_document" "nodes_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy_attachment" "nodes" {
  for_each = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.nodes.name
  policy_arn = "${local.policy_prefix}/${each.key}"
}

# --- connections of nodes, beside those of modules/network

resource "aws_security_group" "nodes" {
  name        = "${var.name}-nodes"
  description = "Reelhaul: all nodes"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-nodes" }
}

resource "aws_security_group" "services" {
  name        = "${var.name}-service-nodes"
  description = "Reelhaul: nodes of services"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-service-nodes" }
}

locals {
  control_plane = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
  # to => from, by name. The control plane calls kubelets, and webhooks of operators.
  node_connections = {
    kubelet         = { to = aws_security_group.nodes.id, from = local.control_plane, protocol = "tcp", port = 10250 }
    kubelet-metrics = { to = aws_security_group.nodes.id, from = aws_security_group.services.id, protocol = "tcp", port = 10250 }
    webhooks        = { to = aws_security_group.services.id, from = local.control_plane, protocol = "tcp", port = 9443 }
    webhooks-tls    = { to = aws_security_group.services.id, from = local.control_plane, protocol = "tcp", port = 10260 }
    metrics-api     = { to = aws_security_group.services.id, from = local.control_plane, protocol = "tcp", port = 6443 }
    api             = { to = local.control_plane, from = aws_security_group.nodes.id, protocol = "tcp", port = 443 }
    dns-tcp         = { to = aws_security_group.services.id, from = aws_security_group.nodes.id, protocol = "tcp", port = 53 }
    dns-udp         = { to = aws_security_group.services.id, from = aws_security_group.nodes.id, protocol = "udp", port = 53 }
    broker          = { to = aws_security_group.services.id, from = var.security_group_ids["fetcher"], protocol = "tcp", port = 4222 }
    collector       = { to = aws_security_group.services.id, from = var.security_group_ids["fetcher"], protocol = "tcp", port = 4317 }
    metrics         = { to = var.security_group_ids["fetcher"], from = aws_security_group.services.id, protocol = "tcp", port = 9182 }
  }
}

resource "aws_vpc_security_group_ingress_rule" "node" {
  for_each = local.node_connections

  security_group_id            = each.value.to
  referenced_security_group_id = each.value.from
  description                  = each.key
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
}

# The control plane may call whatever admits it.
resource "aws_vpc_security_group_egress_rule" "node" {
  for_each = { for name, rule in local.node_connections : name => rule if !contains(["kubelet", "webhooks", "webhooks-tls", "metrics-api"], name) }

  security_group_id            = each.value.from
  referenced_security_group_id = each.value.to
  description                  = each.key
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
}

# Pods of the services among themselves: the network policies of deploy/k8s say which.
resource "aws_vpc_security_group_ingress_rule" "services" {
  security_group_id            = aws_security_group.services.id
  referenced_security_group_id = aws_security_group.services.id
  description                  = "pods of services"
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "services" {
  security_group_id            = aws_security_group.services.id
  referenced_security_group_id = aws_security_group.services.id
  description                  = "pods of services"
  ip_protocol                  = "-1"
}

# Nodes register with the API of EKS and pull images of add-ons.
resource "aws_vpc_security_group_egress_rule" "internet" {
  security_group_id = aws_security_group.nodes.id
  cidr_ipv4         = "0.0.0.0/0"
  description       = "to AWS"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
