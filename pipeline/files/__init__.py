"""Names, places and rights of files, on disks and in buckets; what YAML and JSON may say."""
