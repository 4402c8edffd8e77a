#!/bin/sh
# A worker in shell: takes one job from 0 to 100 by one-line reports. Usage: worker.sh JOB_ID
set -eu
job=${1:?which job? Usage: worker.sh JOB_ID}
url=${NOTIFIER_INTERNAL_URL:-http://127.0.0.1:9191}
read -r key <"${REPORT_KEY_FILE:-$(dirname "$0")/../../.headway/keys/report.key}"

report() { # the key goes by stdin, since arguments can be seen; while the notifier is away, curl tries again for an hour
  verdict=$(printf 'url = "%s/progress/%s"\n' "$url" "$key" | curl --config - --silent --show-error --get \
    --retry 3600 --retry-delay 1 --retry-all-errors --max-time 10 \
    --data-urlencode "jobId=$job" --data kind=backup --data "progress=$1" --data-urlencode "message=$2")
  case $verdict in
    *'"cancel_requested":true'*) echo "The job was cancelled." >&2 && exit 130 ;;
    *'"accepted":true'* | *'"reason":"stale"'*) ;; # stale: not more than was reported before, so it changes nothing
    *'"reason":"finished"'*) echo "The job has ended." >&2 && exit ;;
    *) echo "$verdict" >&2 && exit 1 ;;
  esac
}

report 0 "Starting"
for step in 1 2 3 4 5 6 7 8 9 10; do
  sleep "${STEP_S:-1}" # the work
  report "${step}0" "Copied $step of 10 folders"
done
