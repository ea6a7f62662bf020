variable "name" {
  description = "Name of the cluster, and the first part of other names"
  type        = string
  default     = "reflex"
}

variable "region" {
  description = "AWS region"
  type        = string
}

variable "vpc_id" {
  description = "VPC of the instances"
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of the instances, with a way to the sources, the registry, SSM and CloudWatch Logs"
  type        = list(string)
}

variable "reader_security_groups" {
  description = "Security groups that may query instances; the control API's is one of them"
  type        = list(string)
}

variable "image" {
  description = "The container image, by tag or digest"
  type        = string
}

variable "repository_arn" {
  description = "ARN of the ECR repository of the image"
  type        = string
}

variable "prefix" {
  description = "First part of the names of SSM parameters"
  type        = string
  default     = "/reflex"
}

variable "log_retention_days" {
  description = "Days that logs are kept"
  type        = number
  default     = 30
}
