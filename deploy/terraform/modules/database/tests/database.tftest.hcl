mock_provider "aws" {}

variables {
  name                = "test"
  subnet_ids          = ["subnet-1", "subnet-2"]
  security_group_id   = "sg-1"
  kms_key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/0"
  instance_class      = "db.t4g.small"
  storage_gigabytes   = 20
  multi_az            = true
  backup_days         = 7
  deletion_protection = true
}

run "protected" {
  command = plan

  assert {
    condition     = aws_db_instance.this.storage_encrypted && !aws_db_instance.this.publicly_accessible
    error_message = "The database is encrypted and has no public address."
  }

  assert {
    condition     = aws_db_instance.this.manage_master_user_password && aws_db_instance.this.password == null
    error_message = "RDS keeps the password of the administrator, and the state has none."
  }

  assert {
    condition     = aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot && aws_db_instance.this.final_snapshot_identifier == "test-final"
    error_message = "A protected database is not deleted, and leaves a snapshot."
  }

  assert {
    condition     = aws_db_instance.this.multi_az && aws_db_instance.this.backup_retention_period == 7
    error_message = "A standby takes over, and a week can be restored."
  }
}

run "no_backups_are_refused" {
  command = plan

  variables {
    backup_days = 0
  }

  expect_failures = [var.backup_days]
}
