variable "name" {
  description = "Prefix of the names of the repositories, for example reelhaul."
  type        = string
}
