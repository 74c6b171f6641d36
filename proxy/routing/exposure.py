"""The registry as the configuration wants it shown. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mesh.discovery.model import Directory


def exposed(directory: Directory, exposure: Mapping[str, bool]) -> Directory:
    """Return the directory with the services in `exposure`, and all of their instances, public or not as it says.

    All that reads the directory then agrees: routes, health, reflection, and what people are shown.
    """
    if not exposure:
        return directory
    services = {
        name: dataclasses.replace(service, public=exposure.get(name, service.public))
        for name, service in directory.services.items()
    }
    instances = {
        # As it is where it is so already: what follows looks for what is new.
        key: one
        if (public := exposure.get(one.service, one.public)) == one.public
        else dataclasses.replace(one, public=public)
        for key, one in directory.instances.items()
    }
    return dataclasses.replace(directory, services=services, instances=instances)
