# What runs in each task: the commands, settings, secrets and limits of compose.yaml.

locals {
  images = var.images == null ? { all = "", server = "", nats = "", collector = "" } : var.images

  common = {
    REELHAUL_JOBS_ADDRESSES     = "jobs.${var.namespace}:50051"
    REELHAUL_FETCHER_ADDRESSES  = "fetcher.${var.namespace}:50052"
    REELHAUL_STORAGE_ADDRESSES  = "storage.${var.namespace}:50053"
    REELHAUL_OTLP_ENDPOINT      = "http://collector.${var.namespace}:4317"
    REELHAUL_TRACE_XRAY         = "true"
    REELHAUL_TRACE_SAMPLE_RATIO = tostring(var.trace_sample_ratio)
    OTEL_RESOURCE_ATTRIBUTES    = "deployment.environment=${var.name}"
    # The root file system is read-only, and Fargate has no tmpfs: /data is the one folder to write to.
    HOME   = "/data"
    TMPDIR = "/data"
  }
  common_secrets = {
    REELHAUL_SUITE_TOKEN   = var.secret_arns["suite_token"]
    REELHAUL_METRICS_TOKEN = var.secret_arns["metrics_token"]
    REELHAUL_NATS_URL      = "${var.secret_arns["broker"]}:url::"
  }

  services = {
    gateway = {
      image       = local.images.server
      command     = ["serve", "gateway"]
      subnets     = "services"
      ports       = [8080, 9180]
      target_port = 8080
      health      = ["CMD", "reelhaul", "health", "gateway"]
      environment = merge(local.common, {
        REELHAUL_GATEWAY_ADDRESS         = "0.0.0.0:8080"
        REELHAUL_GATEWAY_METRICS_ADDRESS = "0.0.0.0:9180"
        REELHAUL_GATEWAY_TRUSTED_PROXIES = var.public_range
        REELHAUL_GATEWAY_ALLOWED_HOSTS   = var.edge.domain
        REELHAUL_GATEWAY_DOWNLOADS       = "redirect"
        REELHAUL_RATE_LIMIT_URL          = var.rate_limit_url
      })
      secrets = local.common_secrets
    }
    jobs = {
      image       = local.images.server
      command     = ["serve", "jobs"]
      subnets     = "services"
      ports       = [50051, 9181]
      target_port = 50051
      health      = ["CMD", "reelhaul", "health", "jobs"]
      environment = merge(local.common, {
        REELHAUL_JOBS_ADDRESS         = "0.0.0.0:50051"
        REELHAUL_JOBS_METRICS_ADDRESS = "0.0.0.0:9181"
        REELHAUL_RATE_LIMIT_URL       = var.rate_limit_url
      })
      secrets = merge(local.common_secrets, {
        REELHAUL_JOBS_DATABASE_URL = var.secret_arns["jobs_database_url"]
        REELHAUL_JOBS_SEAL_KEYS    = var.secret_arns["jobs_seal_keys"]
      })
    }
    fetcher = {
      image       = local.images.all
      command     = ["serve", "fetcher"]
      subnets     = "fetchers"
      ports       = [50052, 9182]
      target_port = null
      health      = ["CMD", "reelhaul", "health", "fetcher"]
      environment = merge(local.common, {
        REELHAUL_FETCHER_ADDRESS         = "0.0.0.0:50052"
        REELHAUL_FETCHER_METRICS_ADDRESS = "0.0.0.0:9182"
        REELHAUL_FETCHER_SLOTS           = tostring(var.fetcher.slots)
        # A conversion must not take the memory of the whole task.
        REELHAUL_FETCHER_MEMORY_BYTES = "1610612736"
        # Fargate kills after 120 s. What is not done by then is handed back to the queue.
        REELHAUL_DRAIN_SECONDS = "100"
      })
      secrets = local.common_secrets
    }
    storage = {
      image       = local.images.server
      entry_point = ["sh", "-c"]
      # CloudFront's key must be a file. Nobody but this user can read it, and the process does not keep the variable.
      command = [
        "umask 077; printf '%s' \"$LINK_KEY\" > /data/link.key; unset LINK_KEY; exec dumb-init --single-child -- reelhaul serve storage"
      ]
      subnets     = "services"
      ports       = [50053, 9183]
      target_port = 50053
      health      = ["CMD", "reelhaul", "health", "storage"]
      environment = merge(local.common, {
        REELHAUL_STORAGE_ADDRESS                = "0.0.0.0:50053"
        REELHAUL_STORAGE_METRICS_ADDRESS        = "0.0.0.0:9183"
        REELHAUL_STORAGE_URL                    = var.media.storage_url
        REELHAUL_STORAGE_CLOUDFRONT_URL         = var.media.link_url
        REELHAUL_STORAGE_CLOUDFRONT_KEY_PAIR_ID = var.media.link_key_pair_id
        REELHAUL_STORAGE_CLOUDFRONT_KEY_FILE    = "/data/link.key"
        REELHAUL_RATE_LIMIT_URL                 = var.rate_limit_url
        AWS_EC2_METADATA_DISABLED               = "true"
      })
      secrets = merge(local.common_secrets, {
        REELHAUL_STORAGE_DATABASE_URL = var.secret_arns["storage_database_url"]
        REELHAUL_STORAGE_SEAL_KEYS    = var.secret_arns["storage_seal_keys"]
        LINK_KEY                      = var.secret_arns["link_key"]
      })
    }
    broker = {
      image       = local.images.nats
      entry_point = ["sh", "-c"]
      command     = ["printf '%s' \"$NATS_CONFIG\" > /dev/shm/nats.conf && exec nats-server --config /dev/shm/nats.conf"]
      subnets     = "services"
      ports       = [4222]
      target_port = null
      health      = ["CMD", "wget", "-q", "--spider", "http://127.0.0.1:8222/healthz"]
      environment = { NATS_CONFIG = file("${path.module}/nats.conf") }
      secrets     = { NATS_TOKEN = "${var.secret_arns["broker"]}:token::" }
    }
    collector = {
      image       = local.images.collector
      command     = ["--config", "env:AOT_CONFIG_CONTENT"]
      subnets     = "services"
      ports       = [4317]
      target_port = null
      health      = ["CMD", "/healthcheck"]
      environment = {
        AOT_CONFIG_CONTENT = templatefile("${path.module}/collector.yml", {
          jobs      = "jobs.${var.namespace}"
          name      = var.name
          region    = data.aws_region.current.name
          log_group = var.log_group_names["metrics"]
        })
      }
      secrets = { METRICS_TOKEN = var.secret_arns["metrics_token"] }
    }
  }

  # Replicas and sizes. The broker is one: two servers must not share a store.
  sizes = merge(var.sizes, {
    broker    = { cpu = 512, memory = 1024, min = 1, max = 1 }
    collector = { cpu = 256, memory = 512, min = 1, max = 1 }
  })
}
