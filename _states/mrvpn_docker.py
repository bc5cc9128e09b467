"""States of Docker itself: there, new enough, configured, with the image.

Knows: mrvpn_docker, mrvpn_image. Must not know: what runs in the containers.
"""

from salt.exceptions import CommandExecutionError


def _result(name, comment, changes=None, result=True):
    return {"name": name, "changes": changes or {}, "result": result, "comment": comment}


def engine(name, min_engine, min_compose, manage, source="distribution"):
    """
    Docker Engine and Compose answer and are new enough; installed where missing and ``manage`` is true.

    source
        ``distribution``: the distribution's packages; ``vendor``: Docker's own repository
    """
    changes = {}
    try:
        lacking = __salt__["mrvpn_engine.lacking"](min_compose)
        if lacking:
            told = "; ".join(lacking.values())
            if not manage:
                comment = f"{told}: install it, or set docker.manage to true and MRVPN does"
                return _result(name, comment, result=False)
            how = __salt__["mrvpn_engine.plan"](sorted(lacking), source)
            if __opts__["test"]:
                changes = {package: {"old": "", "new": "installed"} for package in how["packages"]}
                return _result(name, f"would be installed ({told})", changes, result=None)
            changes = __salt__["mrvpn_engine.install"](sorted(lacking), source)
        # a Compose that was not lacking is new enough
        old = __salt__["mrvpn_docker.too_old"](min_engine, min_compose if lacking else None)
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), changes, result=False)
    if old:
        return _result(name, "; ".join(old), changes, result=False)
    return _result(name, "new enough", changes)


def daemon_config(name, values, root):
    """
    Merges keys into daemon.json (the file ``name``), all others kept. Docker is restarted by us only where nothing
    runs on it.

    root
        MRVPN's folder, where it is noted what stood there before
    """
    merged = {}
    try:
        changes = __salt__["mrvpn_docker.daemon_config"](values, name)
        if not changes:
            return _result(name, "in place")
        if __opts__["test"]:
            return _result(name, "would be merged; they take effect when Docker restarts", changes, result=None)
        __salt__["mrvpn_before.note"](root, "daemon", changes)
        text = __salt__["mrvpn_docker.daemon_text"](name)
        __salt__["mrvpn_before.note"](root, "daemon text", {name: {"old": text, "new": None}})
        __salt__["mrvpn_docker.daemon_config"](values, name, write=True)
        merged = changes
        if not __salt__["mrvpn_docker.running"]() and __salt__["mrvpn_docker.restart"]():
            return _result(name, "merged, Docker restarted", changes)
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), merged, result=False)
    comment = (
        "merged; they take effect when Docker restarts, which stops its containers for a moment: do it when it suits"
    )
    return _result(name, comment, changes)


def image(name, source, context):
    """
    The image ``name`` is there: loaded beforehand, pulled, or built on this host from ``context``.
    """
    try:
        if __salt__["mrvpn_docker.image"](name):
            return _result(name, "there")
        if source == "preloaded":
            comment = (
                f"the image {name} is not on this host: load it (docker load), or set image.source to build or pull"
            )
            return _result(name, comment, result=False)
        changes = {"image": {"old": None, "new": name}}
        if __opts__["test"]:
            return _result(name, f"would be made: {source}", changes, result=None)
        if source == "pull":
            __salt__["mrvpn_docker.pull"](name)
        else:
            __salt__["mrvpn_image.build"](name, context)
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)
    return _result(name, f"made: {source}", changes)


def rebuilt(name, image, source, context, pull=True):
    """
    An image has today's packages: built anew aside, or pulled again; containers move only when it differs.

    image
        its name
    pull
        whether the base image is asked for anew, too
    """
    try:
        if source == "preloaded":
            return _result(name, "it is loaded by hand (image.source is preloaded): load the newer one, then apply")
        if __opts__["test"]:
            return _result(name, "would be made anew; what differs is known then", {"image": source}, result=None)
        if source == "pull":
            changes = __salt__["mrvpn_image.refresh"](image)
        else:
            changes = __salt__["mrvpn_image.rebuild"](image, context, pull)
    except (CommandExecutionError, OSError) as error:
        return _result(name, str(error), result=False)
    return _result(name, f"{len(changes)} parts differ" if changes else "nothing newer", changes)
