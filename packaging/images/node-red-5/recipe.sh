# Node-RED 5, put together as the one of 4.1 is: another package-lock.json, everything else is shared with its recipe.
# shellcheck disable=SC1091
. "$here/node-red/recipe.sh"
NODE_RED=5.0.7 LOCK=node-red-5
REF=redforge.local/node-red-5:$NODE_RED
CHANGES[1]="ENV PATH=/usr/local/bin:/usr/bin:/bin NODE_RED_VERSION=$NODE_RED FLOWS=flows.json"
