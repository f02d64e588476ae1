// SPDX-License-Identifier: GPL-2.0-or-later
/// Proves that what cannot be done is refused with the promised errno and leaves nothing behind:
/// fds that are no VM, a second attach, a vCPU in VMX operation, VMXON while armed (#UD and
/// EVENT_NESTED), and for every ioctl each bad argument: wrong version, unknown flags, reserved
/// words, misaligned, too big, overlapping a memslot, out of order, twice.
#include "tests/kvm/lib/test.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace shadowmon::kvmtest {

namespace {
constexpr unsigned ud_vector = 6;
constexpr Gpa region_gpa = Compartment::default_gpa();
constexpr uint64_t gate_length = TG_REGION_PAGES * page_size;

#define REFUSED(call, error) SM_CHECK_EQ(call, -(error), "a bad argument is refused")

int create(const kvm_views_create& request) {
    Fd kvm(SM_CHECK_SYS(open("/dev/kvm", O_RDWR | O_CLOEXEC)));
    kvm_views_create copy = request;
    int result = ioctl(kvm.get(), KVM_VIEWS_CREATE, &copy);
    if (result < 0)
        return -errno;
    close(result);
    return 0;
}

void test_create() {
    Vm vm;
    kvm_views_create good{};
    good.version = KVM_VIEWS_API_VERSION;
    good.vm_fd = vm.fd();
    SM_CHECK_EQ(create(good), 0, "CREATE works");

    auto with = [&](auto change) {
        kvm_views_create request = good;
        change(request);
        return create(request);
    };
    REFUSED(with([](auto& r) { r.version = 0; }), EPROTO);
    REFUSED(with([](auto& r) { r.version = KVM_VIEWS_API_VERSION + 1; }), EPROTO);
    REFUSED(with([](auto& r) { r.flags = 1; }), EINVAL);
    REFUSED(with([](auto& r) { r.pad = 1; }), EINVAL);
    for (int i = 0; i < 4; i++)
        REFUSED(with([i](auto& r) { r.reserved[i] = 1; }), EINVAL);

    // fds that are no VM.
    Fd null(SM_CHECK_SYS(open("/dev/null", O_RDWR | O_CLOEXEC)));
    Fd kvm(SM_CHECK_SYS(open("/dev/kvm", O_RDWR | O_CLOEXEC)));
    int closed = dup(null.get());
    close(closed);
    for (int fd : {null.get(), kvm.get(), vm.vcpu(0).fd(), closed, -1, 100000}) {
        int result = with([fd](auto& r) { r.vm_fd = fd; });
        if (result != -EBADF && result != -EINVAL)
            SM_FAIL("CREATE with fd %d gave %d, expected EBADF or EINVAL", fd, result);
    }
    REFUSED(with([](auto& r) { r.vm_fd = -1; }), EBADF);

    // One monitor at a time.
    Views views = Views::attach(vm.fd());
    REFUSED(create(good), EEXIST);
    REFUSED(with([&](auto& r) { r.vm_fd = views.fd(); }), EINVAL);
    Compartment compartment(views);
    compartment.enable();
    REFUSED(create(good), EEXIST);
    views.close();
    SM_CHECK_EQ(create(good), 0, "after the first has closed, CREATE works");
    SM_CHECK_EQ(vm.vcpu(0).call(guest_function(guest_return_value)).must_return(), return_value,
                "the guest goes on");
}

void test_region() {
    Vm vm;
    auto place = [&](Gpa gpa, uint32_t pages, uint32_t pad = 0) {
        Views views = Views::attach(vm.fd());
        kvm_views_region region{};
        region.gpa = gpa.value;
        region.pages = pages;
        region.pad = pad;
        int result = views.call(KVM_VIEWS_SET_REGION, &region);
        // A refused region is none.
        if (result)
            SM_CHECK_EQ(views.info().region_gpa, 0, "no region was placed");
        return result;
    };
    SM_CHECK_EQ(place(region_gpa, 1), 0, "SET_REGION works");
    REFUSED(place(region_gpa + 1, 1), EINVAL);
    REFUSED(place(region_gpa + 0x800, 1), EINVAL);
    REFUSED(place(region_gpa, 0), EINVAL);
    REFUSED(place(region_gpa, KVM_VIEWS_MAX_REGION_PAGES + 1), EINVAL);
    REFUSED(place(region_gpa, 0xffffffff), EINVAL);
    REFUSED(place(region_gpa, 1, 1), EINVAL);
    REFUSED(place(Gpa{0}, 1), EADDRINUSE);
    REFUSED(place(Gpa{TG_RAM_SIZE - page_size}, 2), EADDRINUSE);
    REFUSED(place(Gpa{TG_RAM_SIZE - page_size}, 1), EADDRINUSE);

    Views views = Views::attach(vm.fd());
    uint32_t bits = views.info().phys_bits;
    SM_CHECK(bits >= 32 && bits <= 52);
    uint64_t end = uint64_t{1} << bits;
    views.close();
    REFUSED(place(Gpa{end}, 1), EINVAL);
    REFUSED(place(Gpa{end - page_size}, 2), EINVAL);
    REFUSED(place(Gpa{~0ull & ~0xfffull}, 1), EINVAL);
    REFUSED(place(Gpa{~0ull & ~0xfffull}, 2), EINVAL);

    views = Views::attach(vm.fd());
    // There is nothing to map before there is a region.
    SM_CHECK(mmap(nullptr, page_size, PROT_READ, MAP_SHARED, views.fd(), 0) == MAP_FAILED);
    SM_CHECK_EQ(views.set_region(region_gpa, 4), 0, "SET_REGION works");
    REFUSED(views.set_region(region_gpa, 4), EEXIST);
    REFUSED(views.set_region(region_gpa + 16 * page_size, 4), EEXIST);
    SM_CHECK_EQ(views.info().region_gpa, region_gpa.value, "GET_INFO says where the region is");
    SM_CHECK_EQ(views.info().region_pages, 4, "GET_INFO says how big it is");

    auto map = [&](size_t pages, int flags, off_t page) {
        void* start = mmap(nullptr, pages * page_size, PROT_READ | PROT_WRITE, flags, views.fd(),
                           page * page_size);
        if (start == MAP_FAILED)
            return false;
        munmap(start, pages * page_size);
        return true;
    };
    SM_CHECK(map(4, MAP_SHARED, 0));
    SM_CHECK(map(1, MAP_SHARED, 3));
    SM_CHECK(!map(4, MAP_PRIVATE, 0));
    SM_CHECK(!map(5, MAP_SHARED, 0));
    SM_CHECK(!map(1, MAP_SHARED, 4));
    SM_CHECK(!map(2, MAP_SHARED, 3));
}

void test_protect() {
    Vm vm;
    Views views = Views::attach(vm.fd());
    REFUSED(views.protect(region_gpa, 1, KVM_VIEWS_SHADOW, KVM_VIEWS_R), EINVAL);
    SM_CHECK_EQ(views.set_region(region_gpa, 4), 0, "SET_REGION works");
    auto protect = [&](auto change) {
        kvm_views_protect request{};
        request.gpa = region_gpa.value;
        request.pages = 1;
        request.view = KVM_VIEWS_SHADOW;
        request.rights = KVM_VIEWS_R;
        change(request);
        return views.call(KVM_VIEWS_PROTECT, &request);
    };
    SM_CHECK_EQ(protect([](auto&) {}), 0, "PROTECT works");
    REFUSED(protect([](auto& r) { r.gpa += 1; }), EINVAL);
    REFUSED(protect([](auto& r) { r.pages = 0; }), EINVAL);
    REFUSED(protect([](auto& r) { r.flags = 2; }), EINVAL);
    REFUSED(protect([](auto& r) { r.view = KVM_VIEWS_COUNT; }), EINVAL);
    REFUSED(protect([](auto& r) { r.view = 255; }), EINVAL);
    REFUSED(protect([](auto& r) { r.rights = 8; }), EINVAL);
    REFUSED(protect([](auto& r) { r.rights = KVM_VIEWS_W; }), EINVAL);
    REFUSED(protect([](auto& r) { r.rights = KVM_VIEWS_W | KVM_VIEWS_X; }), EINVAL);
    REFUSED(protect([](auto& r) { r.on = 3; }), EINVAL);
    for (int i = 0; i < 5; i++)
        REFUSED(protect([i](auto& r) { r.pad[i] = 1; }), EINVAL);
    // CLEAR takes neither rights nor on.
    REFUSED(protect([](auto& r) { r.flags = KVM_VIEWS_PROTECT_CLEAR; }), EINVAL);
    REFUSED(protect([](auto& r) {
                r.flags = KVM_VIEWS_PROTECT_CLEAR;
                r.rights = 0;
                r.on = KVM_VIEWS_ON_ALLOW;
            }),
            EINVAL);
    SM_CHECK_EQ(protect([](auto& r) {
                    r.flags = KVM_VIEWS_PROTECT_CLEAR;
                    r.rights = 0;
                }),
                0, "CLEAR works");
    // Neither half in the region, nor over its end, nor beyond all addresses.
    REFUSED(protect([](auto& r) { r.pages = 5; }), EINVAL);
    REFUSED(protect([](auto& r) {
                r.gpa -= page_size;
                r.pages = 2;
                r.view = KVM_VIEWS_MAIN;
            }),
            EINVAL);
    REFUSED(protect([](auto& r) {
                r.gpa = ~0xfffull;
                r.pages = 2;
                r.view = KVM_VIEWS_MAIN;
            }),
            EINVAL);
    REFUSED(protect([](auto& r) {
                r.gpa = ~0xfffull;
                r.view = KVM_VIEWS_MAIN;
            }),
            EINVAL);
    // RAM has overrides in the main view only.
    REFUSED(protect([](auto& r) { r.gpa = TG_DATA_GPA; }), EINVAL);
    SM_CHECK_EQ(protect([](auto& r) {
                    r.gpa = TG_DATA_GPA;
                    r.view = KVM_VIEWS_MAIN;
                }),
                0, "PROTECT of RAM before ENABLE works");
}

void test_enable_and_patch() {
    Vm vm;
    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    std::array<uint8_t, 4> zero{}, ours{1, 2, 3, 4};
    kvm_views_patch patch = make_patch(Gpa{TG_DATA_GPA}, zero, ours);
    SM_CHECK(views.patch({&patch, 1}) < 0); // Not before ENABLE.
    SM_CHECK_EQ(vm.at<uint32_t>(TG_DATA_GPA), 0, "a refused patch changes nothing");

    auto enable = [&](auto change) {
        kvm_views_enable request{};
        request.gate_gva = TG_REGION_GVA;
        request.gate_len = gate_length;
        change(request);
        return views.call(KVM_VIEWS_ENABLE, &request);
    };
    REFUSED(enable([](auto& r) { r.flags = 2; }), EINVAL);
    REFUSED(enable([](auto& r) { r.gate_gva = ~0ull - 0xfff; }), EINVAL);
    for (int i = 0; i < 4; i++)
        REFUSED(enable([i](auto& r) { r.reserved[i] = 1; }), EINVAL);
    REFUSED(enable([](auto& r) {
                r.flags = KVM_VIEWS_ENABLE_VE;
                r.ve_page = TG_REGION_PAGES;
            }),
            EINVAL);
    REFUSED(enable([](auto& r) {
                r.flags = KVM_VIEWS_ENABLE_VE;
                r.ve_page = 0xffffffff;
            }),
            EINVAL);
    SM_CHECK_EQ(views.info().state, KVM_VIEWS_STATE_IDLE, "a refused ENABLE leaves it idle");
    SM_CHECK_EQ(enable([](auto&) {}), 0, "ENABLE works");
    SM_CHECK(enable([](auto&) {}) < 0); // Twice.
    SM_CHECK_EQ(views.info().state, KVM_VIEWS_STATE_ENABLED, "it is enabled");
    SM_CHECK(views.set_region(region_gpa, 4) < 0);

    // A batch of nothing, and one that is not there.
    kvm_views_patches batch{};
    SM_CHECK_EQ(views.call(KVM_VIEWS_PATCH, &batch), -EINVAL, "an empty batch is refused");
    batch.nr = 1;
    batch.patches = 0x1000;
    SM_CHECK_EQ(views.call(KVM_VIEWS_PATCH, &batch), -EFAULT, "a bad pointer is EFAULT");
    batch.nr = 0xffffffff;
    SM_CHECK(views.call(KVM_VIEWS_PATCH, &batch) < 0);
    // Into the region and into nowhere.
    for (Gpa gpa : {compartment.gpa(TG_PAGE_DATA), Gpa{0x10000000}, Gpa{~0xfffull}}) {
        patch = make_patch(gpa, zero, ours);
        SM_CHECK(views.patch({&patch, 1}) < 0);
    }
    SM_CHECK_EQ(compartment.data().events, 0, "the region is not patched");
    // The same place twice, overlapping, in one batch: the second cannot find what it expects.
    kvm_views_patch twice[] = {make_patch(Gpa{TG_DATA_GPA}, zero, ours),
                               make_patch(Gpa{TG_DATA_GPA + 2}, zero, ours)};
    SM_CHECK(views.patch(twice) < 0);
    SM_CHECK_EQ(vm.at<uint64_t>(TG_DATA_GPA), 0, "a refused batch changes nothing");

    REFUSED(views.resume(0), ENOENT);
    REFUSED(views.resume(77), ENOENT);
    kvm_views_resume resume{0, 1};
    REFUSED(views.call(KVM_VIEWS_RESUME, &resume), EINVAL);
    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
    SM_CHECK(views.patch({&patch, 1}) < 0);
}

void test_queries() {
    Vm vm({.vcpus = 2});
    Views views = Views::attach(vm.fd());
    kvm_views_info info = views.info();
    SM_CHECK_EQ(info.state, KVM_VIEWS_STATE_IDLE, "GET_INFO: state");
    SM_CHECK_EQ(info.nr_vcpus, 2, "GET_INFO: vCPUs");
    SM_CHECK_EQ(info.ram_end, TG_RAM_SIZE, "GET_INFO: end of RAM");
    SM_CHECK_EQ(info.nr_slots, 1, "GET_INFO: memslots");
    auto slots = views.slots();
    SM_CHECK_EQ(slots.size(), 1, "GET_SLOTS: number");
    SM_CHECK_EQ(slots[0].gpa, 0, "GET_SLOTS: gpa");
    SM_CHECK_EQ(slots[0].size, TG_RAM_SIZE, "GET_SLOTS: size");
    SM_CHECK_EQ(slots[0].hva, reinterpret_cast<uint64_t>(vm.ram(Gpa{0})), "GET_SLOTS: hva");
    kvm_views_slots none{};
    REFUSED(views.call(KVM_VIEWS_GET_SLOTS, &none), E2BIG);
    SM_CHECK_EQ(none.nr, 1, "GET_SLOTS says how many there are");
    kvm_views_slot slot;
    kvm_views_slots bad{reinterpret_cast<uint64_t>(&slot), 1, 1};
    REFUSED(views.call(KVM_VIEWS_GET_SLOTS, &bad), EINVAL);

    kvm_views_vcpu state;
    REFUSED(views.get_vcpu(2, state), ENOENT);
    REFUSED(views.get_vcpu(~0u, state), ENOENT);

    std::vector<uint8_t> buffer(0x200000);
    uint64_t done = 77;
    REFUSED(views.read_memory(Gpa{0}, buffer, &done), EINVAL); // more than 1 MiB
    auto mib = std::span(buffer).first(0x100000);
    SM_CHECK_EQ(views.read_memory(Gpa{0x123}, mib, &done), 0, "READ_MEM of 1 MiB works");
    SM_CHECK_EQ(done, mib.size(), "READ_MEM says how much");
    SM_CHECK(!memcmp(mib.data(), vm.ram(Gpa{0x123}), mib.size()));
    REFUSED(views.read_memory(Gpa{TG_RAM_SIZE}, mib, &done), ENXIO);
    SM_CHECK_EQ(done, 0, "READ_MEM copies nothing from a hole");
    REFUSED(views.read_memory(Gpa{TG_RAM_SIZE - 0x1800}, mib, &done), ENXIO);
    SM_CHECK_EQ(done, 0x1800, "READ_MEM copies up to the hole");
    REFUSED(views.read_memory(Gpa{~0ull - 4}, std::span(buffer).first(16), &done), ENXIO);
    kvm_views_mem bad_buffer{0, 0x1000, 16, 0};
    REFUSED(views.call(KVM_VIEWS_READ_MEM, &bad_buffer), EFAULT);

    // An unknown ioctl, and an argument that is not there.
    SM_CHECK(views.call(_IO(KVM_VIEWS_IO, 0xfe)) < 0);
    REFUSED(views.call(KVM_VIEWS_GET_INFO, nullptr), EFAULT);
    REFUSED(views.call(KVM_VIEWS_SET_REGION, nullptr), EFAULT);
    REFUSED(views.call(KVM_VIEWS_ENABLE, nullptr), EFAULT);
    // A read of less than a record; one without an event does not block a non-blocking fd.
    kvm_views_event event;
    SM_CHECK_SYS(fcntl(views.fd(), F_SETFL, O_NONBLOCK));
    SM_CHECK(read(views.fd(), &event, sizeof event) < 0 && errno == EAGAIN);
    SM_CHECK(read(views.fd(), &event, sizeof event - 1) < 0 &&
             (errno == EINVAL || errno == EAGAIN));
    SM_CHECK(write(views.fd(), &event, sizeof event) < 0);
    SM_CHECK_EQ(views.poll(0), 0, "nothing to read");
    SM_CHECK(fcntl(views.fd(), F_GETFD) & FD_CLOEXEC);
}

constexpr uint32_t feature_control = 0x3a;

void test_nested() {
    Vm vm;
    Vcpu& vcpu = vm.vcpu(0);
    Gpa vmxon_region{TG_DATA_GPA + 0x10000};
    vcpu.set_msr(feature_control, 5);
    Outcome outcome = vcpu.call(guest_function(guest_vmxon), vmxon_region);
    if (!outcome.returned() || outcome.value) {
        note("nested virtualization is off: VMX operation not tested");
        return;
    }
    REFUSED(Views::try_attach(vm.fd()), EOPNOTSUPP);
    vcpu.call(guest_function(guest_vmxoff)).must_return();

    Views views = Views::attach(vm.fd());
    Compartment compartment(views);
    vm.map_region_in_guest(compartment.gpa(), TG_REGION_PAGES);
    // Before ENABLE the guest may; then ENABLE may not.
    SM_CHECK_EQ(vcpu.call(guest_function(guest_vmxon), vmxon_region).must_return(), 0,
                "VMXON works while nothing is armed");
    SM_CHECK(views.vcpu(0).flags & KVM_VIEWS_VCPU_VMXON);
    REFUSED(views.enable(region_gva(0), gate_length), EOPNOTSUPP);
    vcpu.call(guest_function(guest_vmxoff)).must_return();
    compartment.enable();

    outcome = vcpu.call(guest_function(guest_vmxon), vmxon_region);
    outcome.must_raise(ud_vector);
    kvm_views_event event = views.must_get_event(KVM_VIEWS_EVENT_NESTED);
    SM_CHECK_EQ(event.rip, outcome.rip, "EVENT_NESTED: rip is that of the #UD");
    SM_CHECK_EQ(event.vcpu_id, 0, "EVENT_NESTED: vcpu_id");
    vcpu.call(gate_function(gate_round_trips), 3).must_return();

    // The VMM must not put the vCPU into VMX operation either; what it sets at every reset it may.
    kvm_nested_state state{};
    state.format = KVM_STATE_NESTED_FORMAT_VMX;
    state.size = sizeof state;
    state.hdr.vmx.vmxon_pa = ~0ull;
    state.hdr.vmx.vmcs12_pa = ~0ull;
    SM_CHECK_SYS(ioctl(vcpu.fd(), KVM_SET_NESTED_STATE, &state));
    state.hdr.vmx.vmxon_pa = vmxon_region.value;
    SM_CHECK_EQ(ioctl(vcpu.fd(), KVM_SET_NESTED_STATE, &state), -1, "nested state is refused");
    SM_CHECK_EQ(errno, EBUSY, "nested state is refused with EBUSY");
    vcpu.call(gate_function(gate_round_trips), 3).must_return();

    SM_CHECK_EQ(views.disable(), 0, "DISABLE works");
    SM_CHECK_EQ(vcpu.call(guest_function(guest_vmxon), vmxon_region).must_return(), 0,
                "after DISABLE VMXON works");
}
} // namespace

void test_main() {
    require_hardware();
    test_create();
    test_region();
    test_protect();
    test_enable_and_patch();
    test_queries();
    test_nested();
}

} // namespace shadowmon::kvmtest
