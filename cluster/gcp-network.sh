#!/usr/bin/env bash
# What cluster/gcp.yaml stands on: a private network, a bucket, two accounts with the rights they need, a key for ssh.
#   cluster/gcp-network.sh up   PROJECT BUCKET [REGION] > my-cluster.yaml
#   cluster/gcp-network.sh down PROJECT BUCKET [REGION]      also ends machines that are left; keeps the bucket
# A second run makes only what is missing. What it does is told on stderr.
set -euo pipefail

action=${1:?up or down}
project=${2:?the id of the project}
bucket=${3:?the name of the bucket}
region=${4:-us-central1}
name=raydml
key=$HOME/.ssh/$name
head=$name-head@$project.iam.gserviceaccount.com
worker=$name-worker@$project.iam.gserviceaccount.com
# Ray's launcher makes this account whatever the file says, and gives it wide rights: here it is made first, and disabled.
launcher=ray-autoscaler-sa-v1

cloud() { gcloud --quiet --project "$project" "$@" >&2; }

# An account is known everywhere only some time after it was made.
patiently() { for _ in 1 2 3 4 5 6 7; do cloud "$@" && return; sleep 10; done; return 1; }

# ensure KIND... NAME [-- OPTIONS]: made where `describe` does not find it.
ensure() {
  local what=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do what+=("$1"); shift; done
  local count=$((${#what[@]} - 1)) place=()
  shift || true
  for option in "$@"; do case $option in --region=* | --router=*) place+=("$option") ;; esac; done
  if ! cloud "${what[@]:0:$count}" describe "${what[$count]}" ${place[@]+"${place[@]}"} 2>/dev/null; then
    cloud "${what[@]:0:$count}" create "${what[$count]}" "$@"
  fi
}

up() {
  cloud services enable compute.googleapis.com iam.googleapis.com iap.googleapis.com storage.googleapis.com \
    cloudresourcemanager.googleapis.com

  ensure compute networks $name -- --subnet-mode=custom
  ensure compute networks subnets $name -- --network=$name --range=10.20.0.0/16 --region="$region" \
    --enable-private-ip-google-access
  ensure compute routers $name -- --network=$name --region="$region"
  ensure compute routers nats $name -- --router=$name --region="$region" --auto-allocate-nat-external-ips \
    --nat-all-subnet-ip-ranges
  ensure compute firewall-rules $name-inside -- --network=$name --source-tags=$name --target-tags=$name --allow=all
  # 35.235.240.0/20 is the Identity-Aware Proxy: ssh for those whom the project allows to tunnel.
  ensure compute firewall-rules $name-ssh -- --network=$name --source-ranges=35.235.240.0/20 --target-tags=$name \
    --allow=tcp:22

  ensure storage buckets "gs://$bucket" -- --location="$region" --uniform-bucket-level-access --public-access-prevention

  for account in $name-head $name-worker $launcher; do
    ensure_account "$account"
  done
  patiently iam service-accounts disable "$launcher@$project.iam.gserviceaccount.com"
  for account in "$head" "$worker"; do
    for role in roles/storage.objectUser roles/storage.legacyBucketReader; do
      patiently storage buckets add-iam-policy-binding "gs://$bucket" --member="serviceAccount:$account" --role=$role
    done
  done
  ensure_role
  patiently projects add-iam-policy-binding "$project" --member="serviceAccount:$head" \
    --role="projects/$project/roles/${name}Autoscaler" --condition=None
  patiently iam service-accounts add-iam-policy-binding "$worker" --member="serviceAccount:$head" \
    --role=roles/iam.serviceAccountUser

  [ -f "$key" ] || ssh-keygen -q -t ed25519 -N "" -C $name -f "$key"
  sed "s|SSH-PUBLIC-KEY|$(cat "$key.pub")|; s|PROJECT|$project|g; s|us-central1|$region|g; s|BUCKET|$bucket|g" "$(dirname "$0")/gcp.yaml"
}

ensure_account() {
  cloud iam service-accounts describe "$1@$project.iam.gserviceaccount.com" 2>/dev/null ||
    cloud iam service-accounts create "$1"
}

# The head starts, labels and ends machines; it may act as the workers' account and no other.
ensure_role() {
  local permissions=compute.instances.create,compute.instances.delete,compute.instances.get,compute.instances.list
  permissions+=,compute.instances.setLabels,compute.instances.setMetadata,compute.instances.setServiceAccount
  permissions+=,compute.instances.setTags,compute.disks.create,compute.subnetworks.use,compute.zoneOperations.get
  cloud iam roles describe ${name}Autoscaler 2>/dev/null ||
    cloud iam roles create ${name}Autoscaler --title="raydml autoscaler" --permissions="$permissions"
}

# A machine that the maintenance of its host stopped is none that Ray's launcher sees: its disk would cost on.
left_machines() {
  gcloud --quiet --project "$project" compute instances list --filter="labels.ray-cluster-name=$name" \
    --format="value(name,zone.basename())"
}

down() {
  left_machines | while read -r machine zone; do
    cloud compute instances delete "$machine" --zone="$zone" </dev/null || true
  done
  cloud compute firewall-rules delete $name-inside $name-ssh || true
  cloud compute routers delete $name --region="$region" || true
  cloud compute networks subnets delete $name --region="$region" || true
  cloud compute networks delete $name || true
  for account in "$head" "$worker" "$launcher@$project.iam.gserviceaccount.com"; do
    cloud iam service-accounts delete "$account" || true
  done
  echo "kept: gs://$bucket and the role ${name}Autoscaler" >&2
}

case $action in
  up) up ;;
  down) down ;;
  *) echo "up or down, but got $action" >&2; exit 2 ;;
esac
