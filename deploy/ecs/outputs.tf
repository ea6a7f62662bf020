output "control_policy_arn" {
  description = "To be attached to the role of the control API"
  value       = aws_iam_policy.control.arn
}

output "control_yaml" {
  description = "The control API's configuration"
  value = yamlencode({
    version = 1
    control = { region = var.region, state = "/var/lib/reflex/state.sqlite", data_dir = "/var/lib/reflex/instances" }
    secrets = { store = "ssm", prefix = var.prefix, region = var.region }
    launcher = {
      kind            = "ecs"
      region          = var.region
      cluster         = aws_ecs_cluster.this.name
      image           = var.image
      subnets         = var.subnet_ids
      security_groups = [aws_security_group.instances.id]
      execution_role  = aws_iam_role.execution.arn
      log_group       = aws_cloudwatch_log_group.instances.name
    }
  })
}
