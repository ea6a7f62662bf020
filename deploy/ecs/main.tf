# What instances on ECS (Fargate) need around them: cluster, log group, security group, the role by which ECS starts
# tasks, and the rights of the control API. The control API itself runs where its state file can live on a local disk (an
# EC2 instance in the same VPC, say), with the policy `control` attached to its role.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

provider "aws" {
  region = var.region
}

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}

locals {
  account    = data.aws_caller_identity.this.account_id
  arn        = "arn:${data.aws_partition.this.partition}"
  ecs        = "${local.arn}:ecs:${var.region}:${local.account}"
  parameters = "${local.arn}:ssm:${var.region}:${local.account}:parameter${var.prefix}/*"
}

resource "aws_ecs_cluster" "this" {
  name = var.name
  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_cloudwatch_log_group" "instances" {
  name              = "/${var.name}/instances"
  retention_in_days = var.log_retention_days
}

# Instances are reached from the control API and from those who query, and reach their sources and AWS.
resource "aws_security_group" "instances" {
  name_prefix = "${var.name}-instances-"
  description = "reflex-engine instances"
  vpc_id      = var.vpc_id
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "queries" {
  for_each                     = toset(var.reader_security_groups)
  security_group_id            = aws_security_group.instances.id
  referenced_security_group_id = each.value
  from_port                    = 8080
  to_port                      = 8080
  ip_protocol                  = "tcp"
}

resource "aws_vpc_security_group_egress_rule" "all" {
  security_group_id = aws_security_group.instances.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

# ECS itself: fetches the image, reads the secrets of the instances, writes their log. The engine has no rights at AWS.
resource "aws_iam_role" "execution" {
  name_prefix = "${var.name}-execution-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "${local.ecs}:*" }
      }
    }]
  })
}

data "aws_iam_policy_document" "execution" {
  statement {
    sid       = "Secrets"
    actions   = ["ssm:GetParameters"]
    resources = [local.parameters]
  }
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.instances.arn}:*"]
  }
  statement {
    sid       = "RegistryLogin"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # the action knows no resource
  }
  statement {
    sid       = "Image"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [var.repository_arn]
  }
}

resource "aws_iam_role_policy" "execution" {
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

# The control API: exactly the calls that it makes, on its own objects.
data "aws_iam_policy_document" "control" {
  statement {
    sid = "Services"
    actions = [
      "ecs:CreateService", "ecs:DeleteService", "ecs:DescribeServices", "ecs:UpdateService",
    ]
    resources = ["${local.ecs}:service/${var.name}/reflex-*"]
  }
  statement {
    sid       = "Teardown"
    actions   = ["ecs:RunTask"]
    resources = ["${local.ecs}:task-definition/reflex-*:*"]
    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [aws_ecs_cluster.this.arn]
    }
  }
  statement {
    sid       = "Tasks"
    actions   = ["ecs:DescribeTasks"]
    resources = ["${local.ecs}:task/${var.name}/*"]
  }
  statement {
    sid       = "TaskList"
    actions   = ["ecs:ListTasks"]
    resources = ["*"] # narrowed by the condition: the action is checked against container instances
    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [aws_ecs_cluster.this.arn]
    }
  }
  statement {
    sid       = "TaskDefinitions"
    actions   = ["ecs:RegisterTaskDefinition"]
    resources = ["${local.ecs}:task-definition/reflex-*:*"]
  }
  statement {
    sid = "TaskDefinitionsAtLarge"
    actions = [
      "ecs:DeregisterTaskDefinition", "ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions",
    ]
    resources = ["*"] # these actions know no resource
  }
  statement {
    sid       = "TagWhatIsCreated"
    actions   = ["ecs:TagResource"]
    resources = ["${local.ecs}:service/${var.name}/reflex-*", "${local.ecs}:task-definition/reflex-*:*", "${local.ecs}:task/${var.name}/*"]
    condition {
      test     = "StringEquals"
      variable = "ecs:CreateAction"
      values   = ["CreateService", "RegisterTaskDefinition", "RunTask"]
    }
  }
  statement {
    sid       = "PassExecutionRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.execution.arn]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }
  statement {
    sid       = "Secrets"
    actions   = ["ssm:DeleteParameter", "ssm:GetParameter", "ssm:PutParameter"]
    resources = [local.parameters]
  }
}

resource "aws_iam_policy" "control" {
  name_prefix = "${var.name}-control-"
  policy      = data.aws_iam_policy_document.control.json
}
