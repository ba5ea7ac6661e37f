"""File trees of machines, as they were found there, cut to what is read. Knows no test."""

from __future__ import annotations

from pathlib import Path

CPU = "sys/devices/system/cpu"

LAPTOP: dict[str, str] = {
    "proc/cpuinfo": (
        "processor\t: 0\nmodel name\t: 12th Gen Intel(R) Core(TM) i5-1240P\ncpu MHz\t\t: 1743.201\n"
        "flags\t\t: fpu vme sse2 avx2 fma f16c avx_vnni\n\n"
        "processor\t: 1\nmodel name\t: 12th Gen Intel(R) Core(TM) i5-1240P\ncpu MHz\t\t: 900.000\n"
    ),
    "proc/self/status": "Name:\tpython3\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\n",
    "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n",
    "proc/loadavg": "0.42 0.30 0.21 1/812 30114\n",
    "proc/meminfo": "MemTotal:       16134532 kB\nMemFree: 1 kB\nMemAvailable:    9001232 kB\n",
    "proc/stat": "cpu  10 20 30 40 50 60 70 0 0 0\ncpu0 1 2 3\n",
    "proc/sys/kernel/ostype": "Linux\n",
    "proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
    "sys/class/dmi/id/sys_vendor": "LENOVO\n",
    "sys/class/dmi/id/product_name": "21CB\n",
    f"{CPU}/online": "0-3\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope/cpu.stat": (
        "usage_usec 1\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"
    ),
    "sys/class/thermal/thermal_zone0/temp": "47000\n",
    "sys/class/thermal/thermal_zone1/temp": "-274000\n",
    "sys/class/hwmon/hwmon3/name": "coretemp\n",
    "sys/class/hwmon/hwmon3/temp1_input": "61000\n",
    "sys/class/hwmon/hwmon4/name": "nvme\n",
    "sys/class/hwmon/hwmon4/temp1_input": "80000\n",
    **{
        f"{CPU}/cpu{n}/{name}": text
        for n in range(4)
        for name, text in {
            "topology/physical_package_id": "0\n",
            "topology/core_id": f"{n // 2}\n",
            "cpufreq/scaling_governor": "powersave\n",
            "cpufreq/scaling_cur_freq": f"{1_000_000 + n * 100_000}\n",
            "cpufreq/scaling_min_freq": "400000\n",
            "cpufreq/scaling_max_freq": "4400000\n",
            "thermal_throttle/core_throttle_count": "2\n",
            "thermal_throttle/package_throttle_count": "5\n",
        }.items()
    },
}
"""Ubuntu on a laptop: cgroups of version 2 without limits, two threads a core."""

CONTAINER: dict[str, str] = {
    "proc/cpuinfo": (
        "processor : 0\nmodel name : AMD EPYC 7B13\nflags : avx2 fma f16c hypervisor avx512f\n"
    ),
    "proc/self/status": "Cpus_allowed_list:\t0,2-3\n",
    "proc/self/cgroup": (
        "12:cpu,cpuacct:/docker/4f3c\n11:memory:/docker/4f3c\n1:name=systemd:/docker/4f3c\n"
    ),
    "proc/stat": "cpu  10 20 30 40 50 60 70 1234 0 0\n",
    ".dockerenv": "",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_periods 90\nnr_throttled 17\nthrottled_time 5\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "4294967296\n",
}
"""Docker on a virtual machine with cgroups of version 1, whose paths are the host's."""

POD: dict[str, str] = {
    "proc/self/cgroup": "0::/kubepods.slice/pod7\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/fs/cgroup/kubepods.slice/cpu.max": "400000 100000\n",
    "sys/fs/cgroup/kubepods.slice/pod7/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/kubepods.slice/memory.max": "1073741824\n",
    "sys/fs/cgroup/kubepods.slice/pod7/memory.max": "max\n",
}
"""A pod that sees the node's cgroups of version 2."""

ORIN: dict[str, str] = {
    "proc/cpuinfo": (
        "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd fphp asimdhp asimddp\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd42\n"
    ),
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/self/status": "Cpus_allowed_list:\t0-1\n",
    "proc/self/cgroup": "0::/\n",
    f"{CPU}/online": "0-1\n",
    "var/lib/nvpmodel/status": "pmode:0002",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/thermal/thermal_zone0/temp": "46250\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1312\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "4\n",
    **{
        f"{CPU}/cpu{n}/cpufreq/{name}": text
        for n in range(2)
        for name, text in {
            "scaling_governor": "schedutil\n",
            "scaling_min_freq": "1510400\n",
            "scaling_max_freq": "1510400\n",
        }.items()
    },
}
"""A Jetson after jetson_clocks: no thermal counters of x86, no throttle files, no cgroup limits."""


def build(folder: Path, files: dict[str, str]) -> Path:
    """Writes a tree; returns its root."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder
