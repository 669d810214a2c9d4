#!/usr/bin/env bash
# Propose an upgrade of locked packages as a pull request: propose_upgrade.sh engine|packages DIFF
#
# Needs a checkout of main whose origin can be pushed to, and gh. The diff may change nothing but locks. A branch
# of an earlier run is replaced, and its pull request shows the new upgrade.
set -euo pipefail
what=$1 diff=$2 branch=upgrade/$1

changed=$(git apply --numstat "$diff" | cut -f3)
if grep -vE '^requirements/[a-z]+\.txt$' <<< "$changed"; then
  echo "the upgrade changes more than requirements/*.txt: nothing is proposed" >&2
  exit 1
fi
git apply --index "$diff"

if [ "$what" = engine ]; then
  version=$(sed -n 's/^yt-dlp==\([0-9.]*\).*/\1/p' requirements/run.txt)
  title="Upgrade yt-dlp to $version"
  body="The tests of the fetcher, the test sites and YouTube pass with it."
else
  title="Upgrade the locked packages"
  body="All tests pass with them."
fi
git -c user.name=upgrade -c user.email=upgrade@users.noreply.github.com commit --quiet --message "$title"
git push --force --quiet origin "HEAD:refs/heads/$branch"

number=$(gh pr list --head "$branch" --state open --json number --jq '.[0].number // empty')
if [ -n "$number" ]; then
  gh pr edit "$number" --title "$title" --body "$body"
else
  gh pr create --base main --head "$branch" --title "$title" --body "$body"
fi
gh workflow run ci.yml --ref "$branch"
