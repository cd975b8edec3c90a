# A private, encrypted bucket for artifacts on Amazon S3, and the policy of those who may use it.
# Elsewhere (MinIO, R2, Ceph): make a bucket and give its user policy.json.

terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.80"
    }
  }
}

variable "bucket" {
  description = "The bucket's name; policy.json says turbosparse."
  type        = string
  default     = "turbosparse"
}

resource "aws_s3_bucket" "artifacts" {
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "artifacts" {
  bucket                  = aws_s3_bucket.artifacts.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

# Parts of uploads that a killed writer began are paid for, and in no listing. Checkpoints are deleted by
# their runs, artifacts by `turbosparse store gc`: nothing else expires.
resource "aws_s3_bucket_lifecycle_configuration" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  rule {
    id     = "abort-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

data "aws_iam_policy_document" "only_tls" {
  statement {
    sid     = "OnlyTls"
    effect  = "Deny"
    actions = ["s3:*"]
    resources = [
      aws_s3_bucket.artifacts.arn,
      "${aws_s3_bucket.artifacts.arn}/*",
    ]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  policy = data.aws_iam_policy_document.only_tls.json
}

resource "aws_iam_policy" "artifacts" {
  name        = "${var.bucket}-artifacts"
  description = "What a run needs of the bucket, and nothing else."
  policy      = replace(file("${path.module}/policy.json"), "arn:aws:s3:::turbosparse", aws_s3_bucket.artifacts.arn)
}

output "policy_arn" {
  description = "To be attached to the identity of the service accounts `flow` and `trainer`."
  value       = aws_iam_policy.artifacts.arn
}
