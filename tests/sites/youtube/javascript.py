"""The player's JavaScript, and the riddles in media URLs that only who runs it can solve.

Far simpler than YouTube's, but of the shape that yt-dlp's solver takes apart: real deno solves it.
"""

from __future__ import annotations

#: Players by what can be made of them.
SOLVABLE, UNSOLVABLE = "5ca1ab1e", "0badc0de"

_PLAYER = """var _yt_player={};(function(g){var window=this;
var config={signatureTimestamp:20455};
function turned(text){return text.split("").reverse().join("")}
function Link(address){this.address=address;this.values={}}
Link.prototype.get=function(name){return this.values[name]};
Link.prototype.set=function(name,value){this.values[name]=value};
Link.prototype.clone=function(){return this};
Link.prototype.unthrottle=function(){var n=this.get("n");if(n)this.set("n",turned(n))};
var linked=function(address,name,signature){var link=new Link(address);link.set("alr","yes");
if(signature)link.set(name,encodeURIComponent(turned(decodeURIComponent(signature))));return link};
})(_yt_player);
"""
_STRANGER = "var config={signatureTimestamp:20455};var nothing=0;"


def player(player_id: str) -> str:
    """``base.js`` of *player_id*."""
    return _PLAYER if player_id == SOLVABLE else _STRANGER


def scrambled(secret: str) -> str:
    """*secret* as the page shows it: the player turns it round again."""
    return secret[::-1]


def challenge(video_id: str, serial: int) -> str:
    """What ``n`` must have become in a good URL."""
    return f"n{serial:04}{video_id}solved"


def signature(video_id: str, serial: int) -> str:
    """What ``sig`` must be in a good URL."""
    return f"AJ{serial:04}{video_id}signed"
