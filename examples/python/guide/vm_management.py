"""VM Management: an advanced VM. Fields for what the node cannot do are refused by name."""

import asyncio

from setup import IMAGE, connected, remove

from dwcp import Affinity, NetworkConfig, NetworkInterface, UnsupportedError, VMConfig


async def main() -> None:
    async with connected() as vm_client:
        # Create advanced VM
        vm_config = VMConfig(
            name="web-server",
            memory=64 * 1024**2,
            cpus=4,
            disk=40 * 1024**3,  # 40GB
            image=IMAGE,
            network=NetworkConfig(
                mode="bridge",
                interfaces=[
                    NetworkInterface(
                        name="eth0",
                        type="virtio",
                        ip_address="192.168.1.100",
                        netmask="255.255.255.0",
                    )
                ],
                dns=["8.8.8.8", "8.8.4.4"],
                gateway="192.168.1.1",
            ),
            labels={"env": "production", "tier": "web"},
            enable_gpu=False,
            enable_tpm=True,
            affinity=Affinity(
                node_selector={"zone": "us-west-1a"},
                required_nodes=["node-01", "node-02"],
            ),
        )

        try:
            vm = await vm_client.create(vm_config)
        except UnsupportedError as error:
            # Naming all fields that ask for what the node cannot do.
            assert "enable_tpm" in error.message, error
            print(f"Unsupported: {error}")
        else:
            raise RuntimeError(f"a TPM that is not there was given to {vm.id}")

        # What this node can do.
        vm_config = VMConfig(
            name="web-server",
            memory=64 * 1024**2,
            cpus=4,
            image=IMAGE,
            labels={"env": "production", "tier": "web"},
        )
        vm = await vm_client.create(vm_config)
        assert vm.config.labels == vm_config.labels
        print(f"Created VM: {vm.name}")
        await remove(vm_client, vm)


if __name__ == "__main__":
    asyncio.run(main())
