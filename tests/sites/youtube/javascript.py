"""The player's JavaScript, and the challenges in media URLs that only a client that runs it can solve.

Far simpler than YouTube's, but of the shape that yt-dlp's solver analyses; the real deno solves it.
"""

from __future__ import annotations

#: Ids of the two players.
SOLVABLE, UNSOLVABLE = "5ca1ab1e", "0badc0de"

_SOLVABLE_PLAYER = """var _yt_player={};(function(g){var window=this;
var config={signatureTimestamp:20455};
function reversed(text){return text.split("").reverse().join("")}
function Link(address){this.address=address;this.values={}}
Link.prototype.get=function(name){return this.values[name]};
Link.prototype.set=function(name,value){this.values[name]=value};
Link.prototype.clone=function(){return this};
Link.prototype.unthrottle=function(){var n=this.get("n");if(n)this.set("n",reversed(n))};
var linked=function(address,name,signature){var link=new Link(address);link.set("alr","yes");
if(signature)link.set(name,encodeURIComponent(reversed(decodeURIComponent(signature))));return link};
})(_yt_player);
"""
_UNSOLVABLE_PLAYER = "var config={signatureTimestamp:20455};var nothing=0;"


def player(player_id: str) -> str:
    """Return ``base.js`` of *player_id*."""
    return _SOLVABLE_PLAYER if player_id == SOLVABLE else _UNSOLVABLE_PLAYER


def scramble(solution: str) -> str:
    """Return the challenge for *solution*: its reverse, which the player reverses again."""
    return solution[::-1]


def n_parameter(video_id: str, serial: int) -> str:
    """Return the value of ``n`` in a valid URL."""
    return f"n{serial:04}{video_id}solved"


def signature(video_id: str, serial: int) -> str:
    """Return the value of ``sig`` in a valid URL."""
    return f"AJ{serial:04}{video_id}signed"
