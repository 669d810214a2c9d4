"""Playlists and the channel, generated a page at a time for any length."""

from __future__ import annotations

import re
from typing import Any

from tests.sites.youtube.player import CHANNEL, CHANNEL_ID, HANDLE, thumbnail

PAGE = 100
TAB_PAGE = 30
#: Number of items in each tab of the channel.
TABS = {"videos": 45, "shorts": 25, "streams": 12}
_UPLOADS = f"UU{CHANNEL_ID[2:]}"
_TAB_TITLES = {"videos": "Videos", "shorts": "Shorts", "streams": "Live"}


def playlist_id(count: int) -> str:
    """Return the id of the playlist of *count* items."""
    return f"PLcount{count:08}"


def size(list_id: str) -> int | None:
    """Return the number of items in the playlist *list_id*; None if there is no such playlist."""
    if list_id == _UPLOADS:
        return sum(TABS.values())
    match = re.fullmatch(r"PLcount(\d{8})", list_id)
    return int(match[1]) if match else None


def playlist(list_id: str, count: int) -> dict[str, Any]:
    """Return the initial data of a playlist page."""
    renderer = {"playlistVideoListRenderer": {"contents": _items(list_id, count, 0), "playlistId": list_id}}
    section = {"itemSectionRenderer": {"contents": [renderer]}}
    tab = {"selected": True, "content": {"sectionListRenderer": {"contents": [section]}}}
    title = f"A list of {count}"
    return {
        "contents": {"twoColumnBrowseResultsRenderer": {"tabs": [{"tabRenderer": tab}]}},
        "header": {
            "playlistHeaderRenderer": {
                "playlistId": list_id,
                "title": {"simpleText": title},
                "stats": [{"runs": [{"text": f"{count:,}"}, {"text": " videos"}]}],
                "ownerText": {"runs": [{"text": CHANNEL, "navigationEndpoint": _channel_endpoint()}]},
                "privacy": "PUBLIC",
            }
        },
        "metadata": {"playlistMetadataRenderer": {"title": title, "description": "Items by number."}},
    }


def panel(list_id: str, count: int) -> dict[str, Any]:
    """Return the playlist panel of a watch page."""
    address = {"commandMetadata": {"webCommandMetadata": {"url": f"/playlist?list={list_id}"}}}
    return {"title": f"A list of {count}", "playlistId": list_id, "contents": [], "endpoint": address}


def missing_playlist() -> dict[str, Any]:
    """Return the initial data for a playlist that does not exist."""
    alert = {"alertRenderer": {"type": "ERROR", "text": {"simpleText": "The playlist does not exist."}}}
    return {"alerts": [alert], "contents": {}}


def channel(tab: str) -> dict[str, Any]:
    """Return the initial data of the channel's *tab*, one of ``TABS``."""
    tabs = [{"tabRenderer": _tab(name, selected=name == tab)} for name in TABS]
    return {
        "contents": {"twoColumnBrowseResultsRenderer": {"tabs": tabs}},
        "metadata": {
            "channelMetadataRenderer": {
                "title": CHANNEL,
                "description": "A channel made for tests.",
                "externalId": CHANNEL_ID,
                "vanityChannelUrl": f"http://www.youtube.com/{HANDLE}",
                "avatar": {"thumbnails": [{"url": "https://yt3.ggpht.com/standin=s900", "width": 900}]},
            }
        },
    }


def continuation(token: str) -> dict[str, Any]:
    """Return the page that the continuation *token* of the previous page names. Raises ValueError."""
    kind, name, start = token.rsplit("+", 2)
    if kind == "list" and (count := size(name)) is not None:
        items = _items(name, count, int(start))
    elif kind == "tab" and name in TABS:
        items = _tab_items(name, int(start))
    else:
        raise ValueError(token)
    return {"onResponseReceivedActions": [{"appendContinuationItemsAction": {"continuationItems": items}}]}


def tab_items(tab: str) -> list[int]:
    """Return the numbers of the items in the channel's *tab*, in order."""
    return [_first_number(tab) + index for index in range(1, TABS[tab] + 1)]


def _items(list_id: str, count: int, start: int) -> list[dict[str, Any]]:
    end = min(start + PAGE, count)
    numbers = _uploads()[start:end] if list_id == _UPLOADS else range(start + 1, end + 1)
    items = [{"playlistVideoRenderer": _item(list_id, number)} for number in numbers]
    return items + ([_continuation_item(f"list+{list_id}+{end}")] if end < count else [])


def _uploads() -> list[int]:
    return [number for tab in TABS for number in tab_items(tab)]


def _first_number(tab: str) -> int:
    """Return the number before the first item of *tab*; the tabs have no items in common."""
    return 1000 * (1 + list(TABS).index(tab))


def _item(list_id: str, number: int) -> dict[str, Any]:
    video_id = f"item{number:07}"
    return {
        "videoId": video_id,
        "title": {"runs": [{"text": f"Item {number}"}]},
        "lengthSeconds": "6",
        "lengthText": {"simpleText": "0:06"},
        "index": {"simpleText": str(number)},
        "isPlayable": True,
        "shortBylineText": {"runs": [{"text": CHANNEL, "navigationEndpoint": _channel_endpoint()}]},
        "thumbnail": {"thumbnails": [thumbnail(video_id)]},
        "navigationEndpoint": {"watchEndpoint": {"videoId": video_id, "playlistId": list_id}},
    }


def _tab(name: str, *, selected: bool) -> dict[str, Any]:
    address = {"commandMetadata": {"webCommandMetadata": {"url": f"/{HANDLE}/{name}"}}}
    tab: dict[str, Any] = {"title": _TAB_TITLES[name], "selected": selected, "endpoint": address}
    if selected:
        tab["content"] = {"richGridRenderer": {"contents": _tab_items(name, 0)}}
    return tab


def _tab_items(name: str, start: int) -> list[dict[str, Any]]:
    end = min(start + TAB_PAGE, TABS[name])
    make = _short if name == "shorts" else _lockup
    items = [
        {"richItemRenderer": {"content": make(_first_number(name) + i)}} for i in range(start + 1, end + 1)
    ]
    return items + ([_continuation_item(f"tab+{name}+{end}")] if end < TABS[name] else [])


def _lockup(number: int) -> dict[str, Any]:
    video_id = f"item{number:07}"
    badge = {"thumbnailBadgeViewModel": {"text": "0:06"}}
    age = {"text": {"content": "3 weeks ago"}, "accessibilityLabel": "3 weeks ago"}
    rows = [{"metadataParts": [{"text": {"content": "1.2K views"}}, age]}]
    model = {"contentMetadataViewModel": {"metadataRows": rows}}
    metadata = {"title": {"content": f"Item {number}"}, "metadata": model}
    image = {"sources": [thumbnail(video_id)]}
    overlay = {"thumbnailBottomOverlayViewModel": {"badges": [badge]}}
    return {
        "lockupViewModel": {
            "contentId": video_id,
            "contentType": "LOCKUP_CONTENT_TYPE_VIDEO",
            "contentImage": {"thumbnailViewModel": {"image": image, "overlays": [overlay]}},
            "metadata": {"lockupMetadataViewModel": metadata},
        }
    }


def _short(number: int) -> dict[str, Any]:
    video_id = f"item{number:07}"
    metadata = {"primaryText": {"content": f"Item {number}"}, "secondaryText": {"content": "1.2K views"}}
    tap = {"innertubeCommand": {"reelWatchEndpoint": {"videoId": video_id}}}
    return {
        "shortsLockupViewModel": {
            "entityId": f"shorts-shelf-item-{video_id}",
            "overlayMetadata": metadata,
            "onTap": tap,
        }
    }


def _continuation_item(token: str) -> dict[str, Any]:
    command = {"continuationCommand": {"token": token, "request": "CONTINUATION_REQUEST_TYPE_BROWSE"}}
    return {"continuationItemRenderer": {"continuationEndpoint": command}}


def _channel_endpoint() -> dict[str, Any]:
    return {"browseEndpoint": {"browseId": CHANNEL_ID, "canonicalBaseUrl": f"/{HANDLE}"}}
