#!/usr/bin/env bash
# Propose an upgrade of locked packages as a pull request: propose_upgrade.sh engine|packages DIFF
#
# Needs a checkout of main whose origin can be pushed to, gh and jq. The diff comes from a job that has run new
# packages: it may change pins and hashes of locks that exist, and nothing else. A branch of an earlier run is
# replaced, and its pull request shows the new upgrade.
set -euo pipefail
what=$1 diff=$2 branch=upgrade/$1

changed=$(git apply --numstat "$diff" | cut -f3)
# Files that are created, deleted, renamed, or get another mode.
summary=$(git apply --summary "$diff")
if [ -n "$summary" ] || grep -vE '^requirements/[a-z]+\.txt$' <<< "$changed"; then
  echo "the upgrade changes more than requirements/*.txt: nothing is proposed" >&2
  exit 1
fi
git apply --index "$diff"
# No address and no option of pip, such as another index.
pin='[a-z0-9._-]+==[A-Za-z0-9.+!]+( ; [^@:#]+)? [\]'
hash=' +--hash=sha256:[0-9a-f]{64}( [\])?'
added=$(git diff --cached --text --unified=0 --output-indicator-new='>' | sed -n 's/^>//p')
if grep -vE "^($pin|$hash| +#.*)?\$" <<< "$added"; then
  echo "the upgrade adds more than pins and hashes: nothing is proposed" >&2
  exit 1
fi

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

# A fork may have a branch of this name, and a pull request from it.
number=$(gh pr list --head "$branch" --state open --json number,isCrossRepository |
  jq --raw-output 'map(select(.isCrossRepository | not))[0].number // empty')
if [ -n "$number" ]; then
  gh pr edit "$number" --title "$title" --body "$body"
else
  gh pr create --base main --head "$branch" --title "$title" --body "$body"
fi
gh workflow run ci.yml --ref "$branch"
